//! The tables of protobuf's own messages (wrappers, durations, structures), of percents and of ranges of numbers.

use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;

pub static DURATION: Table = Table {
    name: "google.protobuf.Duration",
    fields: &[honoured(1, "seconds"), honoured(2, "nanos")],
    refused: "",
    required: &[],
};

pub static BOOL_VALUE: Table = Table {
    name: "google.protobuf.BoolValue",
    fields: &[honoured(1, "value")],
    refused: "",
    required: &[],
};

pub static UINT32_VALUE: Table = Table {
    name: "google.protobuf.UInt32Value",
    fields: &[honoured(1, "value")],
    refused: "",
    required: &[],
};

pub static UINT64_VALUE: Table = Table {
    name: "google.protobuf.UInt64Value",
    fields: &[honoured(1, "value")],
    refused: "",
    required: &[],
};

pub static PERCENT: Table = Table {
    name: "envoy.type.v3.Percent",
    fields: &[honoured(1, "value")],
    refused: "",
    required: &[],
};

pub static STRING_VALUE: Table = Table {
    name: "google.protobuf.StringValue",
    fields: &[honoured(1, "value")],
    refused: "",
    required: &[],
};

pub static STRUCT: Table = Table {
    name: "google.protobuf.Struct",
    fields: &[honoured(1, "fields").map().of(&VALUE)],
    refused: "",
    required: &[],
};

static VALUE: Table = Table {
    name: "google.protobuf.Value",
    fields: &[
        honoured(1, "null_value"),
        honoured(2, "number_value"),
        honoured(3, "string_value"),
        honoured(4, "bool_value"),
        honoured(5, "struct_value").of(&STRUCT),
        honoured(6, "list_value").of(&LIST_VALUE),
    ],
    refused: "",
    required: &[required("kind", &[1, 2, 3, 4, 5, 6])],
};

static LIST_VALUE: Table = Table {
    name: "google.protobuf.ListValue",
    fields: &[honoured(1, "values").list().of(&VALUE)],
    refused: "",
    required: &[],
};

pub static INT32_RANGE: Table = Table {
    name: "envoy.type.v3.Int32Range",
    fields: &[honoured(1, "start"), honoured(2, "end")],
    refused: "",
    required: &[],
};

pub static INT64_RANGE: Table = Table {
    name: "envoy.type.v3.Int64Range",
    fields: &[honoured(1, "start"), honoured(2, "end")],
    refused: "",
    required: &[],
};

pub static DOUBLE_RANGE: Table = Table {
    name: "envoy.type.v3.DoubleRange",
    fields: &[honoured(1, "start"), honoured(2, "end")],
    refused: "",
    required: &[],
};
