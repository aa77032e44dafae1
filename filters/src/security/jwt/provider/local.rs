//! `local_jwks`: a key set that comes with the configuration, or is read with it, once.

use std::io::Read as _;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};

use crate::security::jwt::keys::key_set::{KeySet, MAX_BYTES};
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;

pub(crate) static DATA_SOURCE: Table = Table {
    name: "envoy.config.core.v3.DataSource",
    fields: &[
        honoured(1, "filename"),
        honoured(2, "inline_bytes"),
        honoured(3, "inline_string"),
        honoured(4, "environment_variable"),
    ],
    refused: "5 watched_directory",
    required: &[required("specifier", &[1, 2, 3, 4])],
};

/// # Errors
/// It can't be read, or it is no key set: as with Envoy, the configuration is refused.
pub(crate) fn key_set(proto: &DataSource) -> Result<KeySet, Refusal> {
    let (json, field) = match &proto.specifier {
        None => return Err(Refusal::missing("specifier")),
        Some(Specifier::InlineString(text)) => (text.clone().into_bytes(), "inline_string"),
        Some(Specifier::InlineBytes(bytes)) => (bytes.clone(), "inline_bytes"),
        Some(Specifier::EnvironmentVariable(name)) => {
            let refused =
                |error| Refusal::new("environment_variable", format!("{name:?}: {error}"));
            let text = std::env::var(name).map_err(refused)?;
            (text.into_bytes(), "environment_variable")
        }
        Some(Specifier::Filename(path)) => (file(path)?, "filename"),
    };
    KeySet::parse(&json).map_err(|error| Refusal::new(field, error.to_string()))
}

/// No more of it than a key set may have.
fn file(path: &str) -> Result<Vec<u8>, Refusal> {
    let mut json = Vec::new();
    let most = MAX_BYTES as u64 + 1;
    std::fs::File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut json))
        .map_err(|error| Refusal::new("filename", format!("{path:?}: {error}")))?;
    Ok(json)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::security::jwt::keys::key::tests::p256_jwk;

    fn from(specifier: Specifier) -> Result<KeySet, Refusal> {
        key_set(&DataSource {
            specifier: Some(specifier),
            ..DataSource::default()
        })
    }

    #[test]
    fn keys_stand_in_the_configuration_or_beside_it() {
        let json = json!({"keys": [p256_jwk()]}).to_string();
        assert!(from(Specifier::InlineString(json.clone())).is_ok());
        assert!(from(Specifier::InlineBytes(json.clone().into())).is_ok());
        let path = std::env::temp_dir().join(format!("waypoint-jwks-{}", std::process::id()));
        std::fs::write(&path, &json).unwrap();
        let name = path.to_str().unwrap().to_owned();
        assert!(from(Specifier::Filename(name.clone())).is_ok());
        std::fs::write(&path, " ".repeat(2 * MAX_BYTES)).unwrap();
        let large = from(Specifier::Filename(name.clone())).err().unwrap();
        assert!(large.reason.contains("more than"), "{large}");
        std::fs::remove_file(path).unwrap();
        let gone = from(Specifier::Filename(name)).err().unwrap();
        assert_eq!(gone.field, "filename");
    }

    #[test]
    fn what_is_not_there_or_is_no_key_set_is_refused() {
        let absent = Specifier::EnvironmentVariable("WAYPOINT_NO_SUCH_KEYS".into());
        assert_eq!(from(absent).err().unwrap().field, "environment_variable");
        let nothing = key_set(&DataSource::default()).err().unwrap();
        assert_eq!(nothing.field, "specifier");
        let none = from(Specifier::InlineString("{\"keys\": []}".into()))
            .err()
            .unwrap();
        assert_eq!(
            none.to_string(),
            "inline_string: the key set has no key that can be used"
        );
    }
}
