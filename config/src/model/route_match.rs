//! Route matches: path, headers, query parameters, method, metadata.
