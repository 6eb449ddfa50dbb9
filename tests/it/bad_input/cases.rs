//! The table of bad input, with good input between it.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use crate::rig::Deployment;

/// Stands in payloads whose mapping fails; no log and no row may repeat it.
pub const SECRET: &str = "4929-1234-5678";

/// What becomes of a delivery.
pub enum Wanted {
    /// An instance with this business key was started.
    Effect(String),
    Dead(&'static str),
    Waiting(&'static str),
}

/// One delivery.
pub struct Case {
    pub label: &'static str,
    /// `None`: a record without a value; RabbitMQ only knows empty payloads.
    pub payload: Option<Vec<u8>>,
    /// A header that the route maps to a variable.
    pub header: Option<Vec<u8>>,
    /// What the producer says about how it packed the payload.
    pub encoding: Option<&'static str>,
    pub wanted: Wanted,
}

/// A message that is good but for what is changed.
struct Good<'a> {
    source: &'a str,
    models: &'a Deployment,
    number: usize,
    cases: Vec<Case>,
}

impl Good<'_> {
    fn key(&self) -> String {
        format!("{}-{}-{}", self.models.suffix(), self.source, self.number)
    }

    fn message(&self) -> Value {
        json!({
            "id": format!("id-{}", self.number),
            "key": self.key(),
            "name": self.models.name("OrderPlaced"),
            "card": SECRET,
        })
    }

    /// The good message with these fields.
    fn with(&mut self, label: &'static str, fields: &Value, wanted: Option<Wanted>) {
        let mut message = self.message();
        for (name, value) in fields.as_object().expect("fields are an object") {
            message[name] = value.clone();
        }
        self.text(label, message.to_string(), wanted);
    }

    /// The good message with this text in place of a field's value.
    fn raw(&mut self, label: &'static str, field: &str, text: &str, wanted: Option<Wanted>) {
        let mut message = self.message();
        message[field] = json!("here");
        self.text(label, message.to_string().replace("\"here\"", text), wanted);
    }

    fn text(&mut self, label: &'static str, text: String, wanted: Option<Wanted>) {
        self.bytes(label, text.into_bytes(), wanted);
    }

    fn bytes(&mut self, label: &'static str, payload: Vec<u8>, wanted: Option<Wanted>) {
        self.push(label, Some(payload), None, wanted);
    }

    fn header(&mut self, label: &'static str, header: Vec<u8>, wanted: Option<Wanted>) {
        let payload = self.message().to_string().into_bytes();
        self.push(label, Some(payload), Some(header), wanted);
    }

    fn encoded(
        &mut self,
        label: &'static str,
        encoding: &'static str,
        payload: Vec<u8>,
        wanted: Option<Wanted>,
    ) {
        self.bytes(label, payload, wanted);
        let case = self.cases.last_mut().expect("it was just pushed");
        case.encoding = Some(encoding);
    }

    /// `wanted`: `None` for the effect of a good message.
    fn push(
        &mut self,
        label: &'static str,
        payload: Option<Vec<u8>>,
        header: Option<Vec<u8>>,
        wanted: Option<Wanted>,
    ) {
        let wanted = wanted.unwrap_or_else(|| Wanted::Effect(self.key()));
        self.cases.push(Case {
            label,
            payload,
            header,
            encoding: None,
            wanted,
        });
        self.number += 1;
    }
}

/// `kafka`: also what only that broker carries.
pub fn all(source: &str, models: &Deployment, quoted: &str, kafka: bool) -> Vec<Case> {
    let mut good = Good {
        source,
        models,
        number: 0,
        cases: Vec::new(),
    };
    good.with("a good first", &json!({}), None);
    not_json(&mut good);
    if kafka {
        let wanted = Some(Wanted::Dead("not_json"));
        good.push("tombstone", None, None, wanted);
    }
    keys(&mut good);
    good.with("a good one between", &json!({}), None);
    values(&mut good);
    names(&mut good, quoted);
    headers(&mut good, kafka);
    encodings(&mut good);
    if kafka {
        framings(&mut good);
    }
    good.with("a good last", &json!({}), None);
    good.cases
}

fn not_json(good: &mut Good<'_>) {
    let dead = || Some(Wanted::Dead("not_json"));
    good.text("plain text", format!("Hello, {SECRET}!"), dead());
    good.text("xml", "<order id=\"1\"/>".to_owned(), dead());
    good.bytes("empty", Vec::new(), dead());
    good.bytes("nul bytes", vec![0; 64], dead());
    let cut = good.message().to_string();
    good.text("cut off", cut[..cut.len() - 1].to_owned(), dead());
    let twice = format!("{cut}{cut}");
    good.text("two documents", twice, dead());
    good.raw("lone high surrogate", "text", "\"\\ud800\"", dead());
    good.raw("lone low surrogate", "text", "\"a\\udc00b\"", dead());
    let surrogates = [b"\"\xed\xa0\x80\"".as_slice(), &[]].concat();
    good.bytes("surrogate bytes", surrogates, dead());
    good.bytes("not utf-8", b"{\"id\": \"\xff\xfe\"}".to_vec(), dead());
    let utf16: Vec<u8> = cut.encode_utf16().flat_map(u16::to_le_bytes).collect();
    good.bytes("utf-16", utf16, dead());
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    good.raw("deep nesting", "exact", &deep, dead());
    good.text("only opened", "[".repeat(1_000_000), dead());
    let huge = vec![b'x'; 10 * 1024 * 1024];
    good.bytes("huge and not json", huge, dead());
    good.raw("not a number", "number", "NaN", dead());
}

fn keys(good: &mut Good<'_>) {
    let no_key = || Some(Wanted::Dead("no_key"));
    let mapping = || Some(Wanted::Dead("mapping"));
    good.text("a number", "42".to_owned(), no_key());
    good.text("a string", "\"text\"".to_owned(), no_key());
    good.text("a boolean", "true".to_owned(), no_key());
    good.text("null", "null".to_owned(), no_key());
    good.text("an array", "[1, 2]".to_owned(), no_key());
    good.text("an empty object", "{}".to_owned(), no_key());
    good.with("dedup key null", &json!({ "id": null }), no_key());
    good.with("dedup key empty", &json!({ "id": "" }), no_key());
    good.with(
        "dedup key an object",
        &json!({ "id": { "a": 1 } }),
        mapping(),
    );
    good.with("message name missing", &json!({ "name": null }), mapping());
    good.with(
        "message name an array",
        &json!({ "name": ["x"] }),
        mapping(),
    );
    good.with("business key an object", &json!({ "key": {} }), mapping());
    // A key is hashed whole, whatever it holds.
    good.with("dedup key with nul", &json!({ "id": "a\u{0}b" }), None);
    good.with(
        "dedup key of a megabyte",
        &json!({ "id": "k".repeat(1 << 20) }),
        None,
    );
    good.raw(
        "dedup key beyond 64 bits",
        "id",
        "123456789012345678901234567890",
        None,
    );
}

fn values(good: &mut Good<'_>) {
    let mapping = || Some(Wanted::Dead("mapping"));
    let too_long = || Some(Wanted::Dead("value_too_long"));
    good.raw("number of 64 bits", "number", "9223372036854775807", None);
    good.raw(
        "number beyond i64",
        "number",
        "9223372036854775808",
        mapping(),
    );
    good.raw(
        "number below i64",
        "number",
        "-9223372036854775809",
        mapping(),
    );
    good.raw(
        "number beyond u64",
        "number",
        "18446744073709551616",
        mapping(),
    );
    good.raw(
        "number beyond i64 as json",
        "exact",
        "[18446744073709551616.10]",
        None,
    );
    good.with("wrong type", &json!({ "count": SECRET }), mapping());
    good.with(
        "integer too large",
        &json!({ "count": 4_000_000_000_i64 }),
        mapping(),
    );
    good.with(
        "nul in a string",
        &json!({ "text": "a\u{0}b" }),
        Some(Wanted::Dead("refused")),
    );
    good.with("nul in json", &json!({ "exact": { "a": "\u{0}" } }), None);
    good.with(
        "string of 4,000 characters",
        &json!({ "text": "ß".repeat(4000) }),
        None,
    );
    good.with(
        "string of 4,001 characters",
        &json!({ "text": "x".repeat(4001) }),
        too_long(),
    );
    good.with(
        "4,001 characters as json",
        &json!({ "exact": "x".repeat(4001) }),
        None,
    );
    good.with(
        "huge and good",
        &json!({ "ballast": "b".repeat(10 << 20) }),
        None,
    );
}

fn names(good: &mut Good<'_>, quoted: &str) {
    let unknown = || Some(Wanted::Waiting("unknown_message"));
    let too_long = || Some(Wanted::Dead("value_too_long"));
    let name = good.models.name(quoted);
    good.with("name with quotes", &json!({ "name": name }), None);
    good.with(
        "unknown message",
        &json!({ "name": "Nobody's \"message\"; --" }),
        unknown(),
    );
    good.with(
        "message name with nul",
        &json!({ "name": "a\u{0}" }),
        Some(Wanted::Dead("refused")),
    );
    good.with(
        "message name too long",
        &json!({ "name": "n".repeat(256) }),
        too_long(),
    );
    good.with(
        "business key too long",
        &json!({ "key": "k".repeat(256) }),
        too_long(),
    );
    good.with(
        "business key with nul",
        &json!({ "key": "k\u{0}" }),
        Some(Wanted::Dead("refused")),
    );
}

fn headers(good: &mut Good<'_>, kafka: bool) {
    good.header(
        "header with quotes",
        b"it's \"\\ \xe2\x9c\x93".to_vec(),
        None,
    );
    good.header(
        "header not utf-8",
        vec![0xff, 0x00, 0xfe],
        Some(Wanted::Dead("mapping")),
    );
    good.header(
        "header with nul",
        b"a\0b".to_vec(),
        Some(Wanted::Dead("refused")),
    );
    if kafka {
        // AMQP puts all headers into one frame, so RabbitMQ carries none of this size.
        let header = vec![b'h'; 10 << 20];
        good.header(
            "header of 10 MB",
            header,
            Some(Wanted::Dead("value_too_long")),
        );
    } else {
        let header = vec![b'h'; 100_000];
        good.header(
            "header of a frame",
            header,
            Some(Wanted::Dead("value_too_long")),
        );
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn encodings(good: &mut Good<'_>) {
    let dead = || Some(Wanted::Dead("encoding"));
    let packed = gzip(good.message().to_string().as_bytes());
    good.encoded("packed", "gzip", packed, None);
    let packed = gzip(good.message().to_string().as_bytes());
    good.encoded("packed by Spring", "gzip:UTF-8", packed, None);
    let mut deflated = ZlibEncoder::new(Vec::new(), Compression::fast());
    deflated
        .write_all(good.message().to_string().as_bytes())
        .unwrap();
    good.encoded("deflated", "deflate", deflated.finish().unwrap(), None);
    let plain = good.message().to_string().into_bytes();
    good.encoded("a character set as encoding", "UTF-8", plain, None);

    let plain = good.message().to_string().into_bytes();
    good.encoded("said to be packed", "gzip", plain, dead());
    let packed = gzip(good.message().to_string().as_bytes());
    let cut = packed[..packed.len() - 1].to_vec();
    good.encoded("packed and cut off", "gzip", cut, dead());
    good.encoded("an unknown encoding", "br", packed, dead());
    let bomb = gzip(&vec![b' '; 200 << 20]);
    good.encoded("a bomb", "gzip", bomb, dead());
    let text = gzip(b"Hello!");
    let wanted = Some(Wanted::Dead("not_json"));
    good.encoded("packed and not json", "gzip", text, wanted);
}

/// As Confluent's serializers write it.
fn framings(good: &mut Good<'_>) {
    let framed = |good: &Good<'_>| {
        let message = good.message().to_string().into_bytes();
        [b"\0\0\0\0\x2a".to_vec(), message].concat()
    };
    let payload = framed(good);
    good.bytes("framed", payload, None);
    let packed = gzip(&framed(good));
    good.encoded("framed and packed", "gzip", packed, None);
    let avro = b"\0\0\0\0\x2a\x06abc".to_vec();
    let wanted = Some(Wanted::Dead("not_json"));
    good.bytes("framed and not json", avro, wanted);
}
