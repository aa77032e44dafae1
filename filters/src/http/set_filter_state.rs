//! `envoy.filters.http.set_filter_state`: objects in filter state from each request's head.

use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::extensions::filters::http::set_filter_state::v3::Config;

use crate::format::filter_state_value::{FILTER_STATE_VALUE, FilterStateValue};
use crate::format::{FormatContext, RequestView};
use crate::http::HttpFilter;
use crate::http::filter::{self, Registration};
use crate::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
use crate::xds::coverage::{Table, decode_any, honoured};
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration = Registration {
    config: filter::Config::Message {
        table: &CONFIG,
        build: |config, _| build(&decode_any(config)?),
    },
    per_route: None,
};

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.set_filter_state.v3.Config",
    fields: &[
        honoured(1, "on_request_headers")
            .list()
            .of(&FILTER_STATE_VALUE),
        honoured(2, "clear_route_cache"),
    ],
    refused: "",
    required: &[],
};

fn build(proto: &Config) -> Result<HttpFilter, Refusal> {
    let values: Arc<[FilterStateValue]> = proto
        .on_request_headers
        .iter()
        .enumerate()
        .map(|(i, value)| {
            FilterStateValue::from_proto(value)
                .map_err(|e| e.within(format!("on_request_headers[{i}]")))
        })
        .collect::<Result<_, _>>()?;
    let clear_route = proto.clear_route_cache;
    Ok(HttpFilter::layer(tower::layer::layer_fn(move |inner| {
        HttpService::new(SetFilterState {
            values: values.clone(),
            clear_route,
            inner,
        })
    })))
}

struct SetFilterState {
    values: Arc<[FilterStateValue]>,
    clear_route: bool,
    inner: HttpService,
}

impl HttpCall for SetFilterState {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        {
            let mut state = request.stream.state();
            for value in self.values.iter() {
                let object = value.evaluate(&FormatContext {
                    stream: &request.stream,
                    state: &state,
                    request: Some(RequestView {
                        method: request.http.method(),
                        uri: request.http.uri(),
                        headers: request.http.headers(),
                    }),
                    response: None,
                    end: Instant::now(),
                });
                if let Some(object) = object {
                    value.set(object, &mut state.filter_state);
                }
            }
        }
        if self.clear_route {
            request.clear_route();
        }
        self.inner.call(request)
    }
}
