//! A payload without what was wrapped around it: its content encoding, and Confluent's framing.
//!
//! Pure. Invariant: nothing is changed of what is stored; a row that is driven again is unwrapped again.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::{MultiGzDecoder, ZlibDecoder};

use super::{DeadReason, Envelope, Text, Undecodable};

/// Where producers say how they packed a payload: AMQP's property (which stands among the headers), and
/// what HTTP's name became on Kafka, which has no property for it.
const HEADERS: [&str; 2] = ["content_encoding", "content-encoding"];

/// Names that change no bytes. Spring's and Python's clients write a character set here; JSON is UTF-8.
const PLAIN: [&str; 7] = [
    "identity", "utf-8", "utf8", "us-ascii", "ascii", "binary", "8bit",
];

/// Confluent's serializers write a zero byte and the schema's number, big-endian, before the JSON.
/// JSON itself never begins with a zero byte.
const FRAME: usize = 5;

/// What a payload says.
#[derive(Debug)]
pub struct Content<'a> {
    bytes: Cow<'a, [u8]>,
    schema: Option<u32>,
}

/// How a payload is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    /// zlib, as RFC 9110 has it.
    Deflate,
}

impl<'a> Content<'a> {
    /// `limit`: what a packed payload may become, in bytes.
    ///
    /// # Errors
    /// [`DeadReason::Encoding`]: its encoding is not known, it is broken, or it becomes more than that.
    pub fn of(payload: &'a [u8], envelope: &Envelope, limit: usize) -> Result<Self, Undecodable> {
        let bytes = match packing(envelope)? {
            Packing::Plain => Cow::Borrowed(payload),
            Packing::Gzip => unpack(MultiGzDecoder::new(payload), "gzip", limit)?,
            Packing::Deflate => unpack(ZlibDecoder::new(payload), "deflate", limit)?,
        };
        // Only Kafka has this framing.
        let framed = envelope.topic.is_some() && bytes.len() >= FRAME && bytes[0] == 0;
        let schema = framed.then(|| u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]));
        Ok(Self { bytes, schema })
    }

    /// Unpacked, its framing included: two payloads are the same when these bytes are.
    pub fn unpacked(&self) -> &[u8] {
        &self.bytes
    }

    /// What should be JSON.
    pub fn json(&self) -> &[u8] {
        match self.schema {
            Some(_) => &self.bytes[FRAME..],
            None => &self.bytes,
        }
    }

    /// The schema's number, where the payload looks framed.
    pub fn schema(&self) -> Option<u32> {
        self.schema
    }
}

/// One packing at most: of several, producers disagree about which comes first.
fn packing(envelope: &Envelope) -> Result<Packing, Undecodable> {
    let named = HEADERS.iter().find_map(|name| envelope.header(name));
    let Some(named) = named else {
        return Ok(Packing::Plain);
    };
    let mut packing = Packing::Plain;
    // Spring appends the character set: `gzip:UTF-8`.
    for name in named.as_str().unwrap_or("?").split([',', ':', ' ', ';']) {
        let name = name.to_ascii_lowercase();
        let found = match name.as_str() {
            "" => continue,
            plain if PLAIN.contains(&plain) => continue,
            "gzip" | "x-gzip" => Packing::Gzip,
            "deflate" => Packing::Deflate,
            _ => {
                return Err(unusable(&format!(
                    "{}: unknown, expected gzip, deflate or none",
                    said(named)
                )));
            }
        };
        if packing != Packing::Plain {
            return Err(unusable(&format!("{}: several", said(named))));
        }
        packing = found;
    }
    Ok(packing)
}

/// As far as it looks like a name: a header may hold anything.
fn said(name: &Text) -> String {
    let name = name.as_str().filter(|name| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:; ".contains(c);
        name.len() <= 40 && name.chars().all(is_plain)
    });
    name.map_or_else(|| "a strange name".to_owned(), |name| format!("{name:?}"))
}

fn unpack<'a>(from: impl Read, name: &str, limit: usize) -> Result<Cow<'a, [u8]>, Undecodable> {
    let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    if from.take(one_more).read_to_end(&mut bytes).is_err() {
        return Err(unusable(&format!(
            "{name}: the payload is spoiled or cut off"
        )));
    }
    if bytes.len() > limit {
        return Err(unusable(&format!(
            "{name}: the payload becomes more than {limit} bytes (intake.max_content_bytes)"
        )));
    }
    Ok(Cow::Owned(bytes))
}

fn unusable(what: &str) -> Undecodable {
    Undecodable {
        reason: DeadReason::Encoding,
        detail: format!("content encoding {what}"),
    }
}

#[cfg(test)]
mod tests;
