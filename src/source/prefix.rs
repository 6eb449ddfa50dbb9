//! What may be acknowledged.
