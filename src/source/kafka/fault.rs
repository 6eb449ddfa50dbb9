//! Errors of the client: which of them end a stream, which go on until somebody changes something, and
//! what they are told as.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::source::SourceError;

/// The TLS library's words. The client tells them under several codes, that of a lost connection among
/// them, though no waiting makes a certificate trusted.
const UNTRUSTED: &str = "certificate verify failed";

/// What the broker says about one topic.
pub(super) fn about_topic(topic: &str, code: RDKafkaErrorCode) -> SourceError {
    let error = SourceError::new(format!("cannot read topic {topic:?}")).because(code);
    if needs_operator(code) {
        error.needs_operator()
    } else {
        error
    }
}

/// The client does not take its own settings. Its error may repeat a secret value: only its words count.
pub(super) fn refused(cause: KafkaError) -> SourceError {
    match cause {
        KafkaError::ClientConfig(_, what, name, _) => SourceError::new(format!("{name}: {what}")),
        other => SourceError::new("cannot make a Kafka client").because(other),
    }
}

/// An error in the client's own words.
pub(super) fn told(code: RDKafkaErrorCode, reason: &str) -> SourceError {
    let error = SourceError::new(reason.to_owned()).because(code);
    if lasts(code, reason) {
        error.needs_operator()
    } else {
        error
    }
}

/// Whether the error goes on until somebody changes something, by its code or its words.
pub(super) fn lasts(code: RDKafkaErrorCode, reason: &str) -> bool {
    needs_operator(code) || reason.contains(UNTRUSTED)
}

/// Errors after which a new stream is needed: it looks at the offsets again.
pub(super) fn ends(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AutoOffsetReset
            | RDKafkaErrorCode::OffsetOutOfRange
            | RDKafkaErrorCode::Fatal
    )
}

/// Errors that go on until somebody changes something.
pub(super) fn needs_operator(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::SSL
            | RDKafkaErrorCode::InvalidGroupId
            | RDKafkaErrorCode::InvalidSessionTimeout
            | RDKafkaErrorCode::InconsistentGroupProtocol
            | RDKafkaErrorCode::UnsupportedAssignor
            | RDKafkaErrorCode::FencedInstanceId
            | RDKafkaErrorCode::UnreleasedInstanceId
    )
}
