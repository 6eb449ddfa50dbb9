//! Errors of the client: which of them end a stream, which go on until somebody changes something, and
//! what they are told as.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::begin::Position;
use super::pattern;
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

/// What was to be read cannot be read. The client says at which offset, if anything; the partition is
/// the one of which that offset is expected.
pub(super) fn about_records(
    code: RDKafkaErrorCode,
    reason: &str,
    expected: &[Position],
) -> SourceError {
    let numbers: Vec<i64> = reason
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    let places: Vec<String> = expected
        .iter()
        .filter(|position| numbers.contains(&position.offset))
        .map(|position| format!("{}/{}", position.topic, position.partition))
        .collect();
    let mut what = format!("cannot read on: {reason}");
    if let [place] = &places[..] {
        what = format!("cannot read on in {place}: {reason}");
    }
    let spoiled = is_spoiled(code);
    if spoiled {
        what.push_str("; to give up what stands there, set the group's offset behind it");
    }
    let error = SourceError::new(what).because(code);
    if spoiled {
        error.needs_operator()
    } else {
        error
    }
}

/// Errors about bytes that will be the same the next time.
fn is_spoiled(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::NotImplemented
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::MessageSizeTooLarge
    )
}

/// A pattern that matches no topic now is told like a topic that is missing; one may be made at any time.
pub(super) fn is_of_a_pattern(code: RDKafkaErrorCode, reason: &str) -> bool {
    code == RDKafkaErrorCode::UnknownTopicOrPartition
        && reason
            .split_once(": ")
            .is_some_and(|(_, topic)| pattern::is_pattern(topic))
}

/// Errors that the client mends by itself: a connection that is lost, a leader or coordinator that moves,
/// a group that rebalances, a commit that was too late. Those that nobody knows are not among them.
pub(super) fn mends_itself(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::TimedOutQueue
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::NodeUpdate
            | RDKafkaErrorCode::BrokerDestroy
            | RDKafkaErrorCode::DestroyBroker
            | RDKafkaErrorCode::WaitingForCoordinator
            | RDKafkaErrorCode::WaitCache
            | RDKafkaErrorCode::InProgress
            | RDKafkaErrorCode::PreviousInProgress
            | RDKafkaErrorCode::Retry
            | RDKafkaErrorCode::Outdated
            | RDKafkaErrorCode::NoOffset
            | RDKafkaErrorCode::PollExceeded
            | RDKafkaErrorCode::AssignmentLost
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::BrokerNotAvailable
            | RDKafkaErrorCode::ReplicaNotAvailable
            | RDKafkaErrorCode::NetworkException
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::MemberIdRequired
            | RDKafkaErrorCode::RebalanceInProgress
            | RDKafkaErrorCode::StaleMemberEpoch
            | RDKafkaErrorCode::FencedMemberEpoch
            | RDKafkaErrorCode::UnstableOffsetCommit
            | RDKafkaErrorCode::KafkaStorageError
            | RDKafkaErrorCode::OffsetNotAvailable
            | RDKafkaErrorCode::FencedLeaderEpoch
            | RDKafkaErrorCode::UnknownLeaderEpoch
            | RDKafkaErrorCode::ListenerNotFound
            | RDKafkaErrorCode::ThrottlingQuotaExceeded
    )
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
            | RDKafkaErrorCode::UnknownPartition
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_told_with_its_partition_where_that_is_certain() {
        let at = |partition, offset| Position {
            topic: "orders".to_owned(),
            partition,
            offset,
            since: None,
        };
        let reason = "MessageSet at offset 17 (83 bytes) failed CRC32C check";
        let told =
            |expected: &[Position]| about_records(RDKafkaErrorCode::BadMessage, reason, expected);
        let certain = told(&[at(0, 7), at(1, 17), at(2, 1)]);
        assert!(
            certain.what.contains("in orders/1: MessageSet"),
            "{certain}"
        );
        assert!(certain.needs_operator);
        let doubtful = told(&[at(0, 17), at(1, 17)]);
        assert!(!doubtful.what.contains("orders/"), "{doubtful}");
    }

    #[test]
    fn an_error_that_nobody_knows_is_not_said_to_mend_itself() {
        for code in [
            RDKafkaErrorCode::Unknown,
            RDKafkaErrorCode::BadMessage,
            RDKafkaErrorCode::BadCompression,
            RDKafkaErrorCode::InvalidMessage,
            RDKafkaErrorCode::LogTruncation,
        ] {
            assert!(!mends_itself(code), "{code}");
        }
    }
}
