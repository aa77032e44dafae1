//! Placeholder until the real one lands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(std::sync::Arc<str>);
impl Identity { pub fn as_str(&self) -> &str { &self.0 } }
