//! What the management API says about a queue and AMQP does not: its type, its arguments, its policy.
//!
//! Read by `sluice check --connect` alone. One GET in plain HTTP/1.0, whose answer ends with its
//! connection: a client library would be more code than this.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::finding::Finding;

const LIMIT: Duration = Duration::from_secs(5);
/// A description of one queue has a few kilobytes.
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;
/// What RabbitMQ 4 gives a quorum queue that names no limit.
const DEFAULT_DELIVERY_LIMIT: i64 = 20;

/// The API's address, in parts.
#[derive(Debug)]
struct Api {
    host: String,
    port: u16,
    /// Before `/api`, when a proxy serves it below a path.
    prefix: String,
    authorization: String,
}

/// Whether the URL can be used; the error never repeats it, because it holds a password.
pub(super) fn check(url: &SecretString) -> Result<(), String> {
    parse(url).map(|_| ())
}

fn parse(url: &SecretString) -> Result<Api, String> {
    let expected = "expected http://user:password@host:15672";
    let rest = url
        .expose_secret()
        .strip_prefix("http://")
        .ok_or(expected)?;
    // The shape is that of an AMQP URI, whose parser also decodes user and password.
    let uri = super::config::parse(&format!("amqp://{rest}").into()).map_err(|_| expected)?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host_and_port = authority.rsplit('@').next().unwrap_or_default();
    let named = host_and_port
        .rsplit(']')
        .next()
        .is_some_and(|tail| tail.contains(':'));
    let user = uri.authority.userinfo;
    Ok(Api {
        host: uri.authority.host,
        port: if named { uri.authority.port } else { 15672 },
        prefix: match uri.vhost.trim_matches('/') {
            "" | "api" => String::new(),
            path => format!("/{}", path.trim_end_matches("/api")),
        },
        authorization: BASE64.encode(format!("{}:{}", user.username, user.password)),
    })
}

/// What there is to say about the queue.
pub(super) async fn look(
    url: &SecretString,
    vhost: &str,
    queue: &str,
    ordered: bool,
) -> Vec<Finding> {
    let asking = async {
        let api = parse(url)?;
        let overview = get(&api, "overview").await?;
        let path = format!(
            "queues/{}/{}",
            percent_encoded(vhost),
            percent_encoded(queue)
        );
        let described = get(&api, &path).await?;
        let version = overview["rabbitmq_version"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Ok::<_, String>((version, described))
    };
    match tokio::time::timeout(LIMIT, asking).await {
        Ok(Ok((version, described))) => judge(&version, &described, queue, ordered),
        Ok(Err(what)) => vec![Finding::warning(format!("the management API: {what}"))],
        Err(_) => vec![Finding::warning(
            "the management API did not answer in time",
        )],
    }
}

fn judge(version: &str, described: &Value, queue: &str, ordered: bool) -> Vec<Finding> {
    let kind = described["type"].as_str().unwrap_or("classic");
    let durable = described["durable"].as_bool().unwrap_or_default();
    let mut findings = vec![Finding::info(format!(
        "RabbitMQ {version}: queue {queue:?} is of type {kind}"
    ))];
    if kind == "stream" {
        let what = format!("queue {queue:?} is a stream, expected a classic or quorum queue");
        findings.push(Finding::error(what));
    }
    if !durable || described["auto_delete"] == true || described["exclusive"] == true {
        let what =
            format!("queue {queue:?} is not durable or deletes itself: its messages go with it");
        findings.push(Finding::warning(what));
    }
    findings.extend(delivery_limit(version, described, queue, kind));
    findings.extend(dropped(described, queue));
    let single = described["arguments"]["x-single-active-consumer"] == true;
    if ordered && !single {
        findings.push(Finding::error(format!(
            "a route keeps order on queue {queue:?}, which has no x-single-active-consumer = true: \
             its messages are spread over several consumers"
        )));
    }
    findings
}

/// At its limit the broker takes a message away by itself.
fn delivery_limit(version: &str, described: &Value, queue: &str, kind: &str) -> Option<Finding> {
    let major: u32 = version.split('.').next()?.parse().ok()?;
    let by_default = (kind == "quorum" && major >= 4).then_some(DEFAULT_DELIVERY_LIMIT);
    let limit = setting(described, "delivery-limit")
        .and_then(Value::as_i64)
        .or(by_default)?;
    let dead_letters = setting(described, "dead-letter-exchange").is_some();
    let what = if dead_letters {
        "dead-letters"
    } else {
        "drops"
    };
    (limit >= 0).then(|| {
        Finding::warning(format!(
            "queue {queue:?} {what} a message by itself after {limit} deliveries (x-delivery-limit); \
             every lost connection is one"
        ))
    })
}

/// Settings with which the broker drops messages that nobody has read.
fn dropped(described: &Value, queue: &str) -> Vec<Finding> {
    let drops = ["message-ttl", "max-length", "max-length-bytes", "expires"];
    let overflow = setting(described, "overflow").and_then(Value::as_str);
    drops
        .into_iter()
        .filter(|name| !(name.starts_with("max-") && overflow.is_some_and(|o| o != "drop-head")))
        .filter_map(|name| setting(described, name).map(|value| (name, value)))
        .map(|(name, value)| {
            Finding::warning(format!(
                "queue {queue:?} has {name} = {value}: the broker drops messages that were not read"
            ))
        })
        .collect()
}

/// An argument of the queue, or what a policy says in its place.
fn setting<'a>(described: &'a Value, name: &str) -> Option<&'a Value> {
    let argument = described["arguments"].get(format!("x-{name}"));
    let by_policy = || described["effective_policy_definition"].get(name);
    argument.or_else(by_policy)
}

async fn get(api: &Api, path: &str) -> Result<Value, String> {
    let Api {
        host,
        port,
        prefix,
        authorization,
    } = api;
    let unreachable = |cause: std::io::Error| format!("{host}:{port}: {cause}");
    let mut stream = TcpStream::connect((host.as_str(), *port))
        .await
        .map_err(unreachable)?;
    let request = format!(
        "GET {prefix}/api/{path} HTTP/1.0\r\nHost: {host}:{port}\r\n\
         Authorization: Basic {authorization}\r\nAccept: application/json\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(unreachable)?;
    let mut answer = Vec::new();
    stream
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut answer)
        .await
        .map_err(unreachable)?;
    body(&answer).map_err(|what| format!("{host}:{port}: {what}"))
}

fn body(answer: &[u8]) -> Result<Value, String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    let status = head.lines().next().and_then(|line| line.split(' ').nth(1));
    match status {
        Some("200") => {}
        Some("401") => return Err("user or password is refused".to_owned()),
        Some("404") => return Err("there is no such queue".to_owned()),
        Some(status) => return Err(format!("answered with status {status}")),
        None => return Err("no HTTP answer".to_owned()),
    }
    serde_json::from_str(body).map_err(|cause| format!("expected a JSON object: {cause}"))
}

/// Everything but letters and digits, because names of queues hold anything.
fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::finding::Level;

    fn levels(findings: &[Finding], word: &str) -> Vec<Level> {
        let about = findings
            .iter()
            .filter(|finding| finding.text.contains(word));
        about.map(|finding| finding.level).collect()
    }

    #[test]
    fn the_delivery_limit_is_the_queues_the_policys_or_the_brokers_default() {
        let quorum = |arguments: Value, policy: Value| json!({"type": "quorum", "durable": true, "arguments": arguments, "effective_policy_definition": policy});
        for (version, described, limit) in [
            ("4.0.1", quorum(json!({}), json!({})), Some("20")),
            ("3.13.0", quorum(json!({}), json!({})), None),
            (
                "4.0.1",
                quorum(json!({"x-delivery-limit": 7}), json!({"delivery-limit": 9})),
                Some("7"),
            ),
            (
                "3.13.0",
                quorum(json!({}), json!({"delivery-limit": 9})),
                Some("9"),
            ),
            (
                "4.0.1",
                quorum(json!({"x-delivery-limit": -1}), json!({})),
                None,
            ),
            ("4.0.1", json!({"type": "classic", "durable": true}), None),
        ] {
            let findings = judge(version, &described, "q", false);
            let told = findings
                .iter()
                .find(|f| f.text.contains("x-delivery-limit"));
            assert_eq!(told.is_some(), limit.is_some(), "{version} {described}");
            if let (Some(told), Some(limit)) = (told, limit) {
                assert!(
                    told.text.contains(&format!("after {limit} deliveries")),
                    "{told:?}"
                );
            }
        }
    }

    #[test]
    fn what_loses_messages_or_order_is_told() {
        let described = json!({"type": "classic", "durable": false, "arguments": {"x-message-ttl": 1000, "x-max-length": 5}});
        let findings = judge("3.10.8", &described, "q", true);
        for word in ["durable", "message-ttl", "max-length"] {
            assert_eq!(levels(&findings, word), [Level::Warning], "{word}");
        }
        assert_eq!(
            levels(&findings, "x-single-active-consumer"),
            [Level::Error]
        );

        let described = json!({"type": "stream", "durable": true, "arguments": {"x-single-active-consumer": true}});
        let findings = judge("3.10.8", &described, "q", true);
        assert_eq!(levels(&findings, "is a stream"), [Level::Error]);
        assert_eq!(levels(&findings, "x-single-active-consumer"), []);
        let rejecting = json!({"type": "classic", "durable": true, "arguments": {"x-max-length": 5, "x-overflow": "reject-publish"}});
        assert_eq!(
            levels(&judge("3.10.8", &rejecting, "q", false), "max-length"),
            []
        );
    }

    #[test]
    fn an_url_is_taken_apart_and_never_repeated() {
        let api = |url: &str| parse(&url.to_owned().into());
        let plain = api("http://us%40er:pa%2Fss@rabbit").expect("a URL");
        assert_eq!(
            (plain.host.as_str(), plain.port, plain.prefix.as_str()),
            ("rabbit", 15672, "")
        );
        assert_eq!(plain.authorization, BASE64.encode("us@er:pa/ss"));
        let behind = api("http://u:p@proxy:8080/rabbit/api").expect("a URL");
        assert_eq!((behind.port, behind.prefix.as_str()), (8080, "/rabbit"));
        let v6 = api("http://u:p@[::1]:15672/api").expect("a URL");
        assert_eq!(
            (v6.host.as_str(), v6.port, v6.prefix.as_str()),
            ("::1", 15672, "")
        );
        let refused = api("https://u:hunter2@host").expect_err("no TLS here");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
}
