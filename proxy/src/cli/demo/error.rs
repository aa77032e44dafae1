//! Why the demo failed: in words.

pub(crate) type DemoError = Box<dyn std::error::Error + Send + Sync>;
