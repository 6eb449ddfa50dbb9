use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn said(header: &str, encoding: &str) -> Envelope {
    Envelope {
        headers: vec![(header.to_owned(), Text::new(encoding.to_owned()))],
        ..Envelope::default()
    }
}

fn json(payload: &[u8], envelope: &Envelope, limit: usize) -> Result<Vec<u8>, String> {
    let content = Content::of(payload, envelope, limit);
    content
        .map(|content| content.json().to_vec())
        .map_err(|error| error.detail)
}

#[test]
fn each_known_encoding_is_undone_by_whatever_name_it_has() {
    let document = br#"{"id": 1.10}"#;
    let (packed, deflated) = (gzip(document), zlib(document));
    let twice = [gzip(&document[..4]), gzip(&document[4..])].concat();
    for (payload, encoding) in [
        (&packed, "gzip"),
        (&packed, "X-GZIP"),
        (&packed, "gzip:UTF-8"),
        (&packed, "gzip, utf-8"),
        (&twice, "gzip"),
        (&deflated, "deflate"),
        (&document.to_vec(), "UTF-8"),
        (&document.to_vec(), "identity"),
        (&document.to_vec(), ""),
    ] {
        for header in ["content_encoding", "content-encoding", "Content-Encoding"] {
            let found = json(payload, &said(header, encoding), 100);
            assert_eq!(found, Ok(document.to_vec()), "{header}: {encoding}");
        }
    }
    assert_eq!(
        json(&packed, &Envelope::default(), 100),
        Ok(packed.clone()),
        "nobody said that it is packed"
    );
}

#[test]
fn what_cannot_be_undone_says_why() {
    let packed = gzip(b"{}");
    for (payload, encoding, why) in [
        (
            &packed[..],
            "br",
            "content encoding \"br\": unknown, expected gzip, deflate or none",
        ),
        (
            &packed,
            "gzip, deflate",
            "content encoding \"gzip, deflate\": several",
        ),
        (
            &packed,
            "4929\u{0}",
            "content encoding a strange name: unknown, expected gzip, deflate or none",
        ),
        (
            b"{}",
            "gzip",
            "content encoding gzip: the payload is spoiled or cut off",
        ),
        (
            &packed[..packed.len() - 1],
            "gzip",
            "content encoding gzip: the payload is spoiled or cut off",
        ),
        (
            &packed,
            "deflate",
            "content encoding deflate: the payload is spoiled or cut off",
        ),
    ] {
        assert_eq!(
            json(payload, &said("content-encoding", encoding), 100),
            Err(why.to_owned())
        );
    }
}

#[test]
fn a_bomb_is_given_up_at_the_limit() {
    let bomb = gzip(&vec![b' '; 10_000_000]);
    assert!(bomb.len() < 100_000);
    let envelope = said("content-encoding", "gzip");
    let error = json(&bomb, &envelope, 9_999_999).expect_err("it is larger");
    assert!(error.contains("more than 9999999 bytes"), "{error}");
    assert_eq!(
        json(&bomb, &envelope, 10_000_000).map(|b| b.len()),
        Ok(10_000_000)
    );
}

#[test]
fn confluents_framing_is_seen_on_kafka_alone() {
    let framed = b"\0\0\0\x01\x02{}".to_vec();
    let kafka = Envelope {
        topic: Some("orders".to_owned()),
        ..Envelope::default()
    };
    let content = Content::of(&framed, &kafka, 100).expect("it is not packed");
    assert_eq!(content.json(), b"{}");
    assert_eq!(content.schema(), Some(0x0102));
    assert_eq!(content.unpacked(), framed);
    assert_eq!(json(&framed, &Envelope::default(), 100), Ok(framed.clone()));
    for short in [&b""[..], b"\0", b"\0\0\0\0"] {
        assert_eq!(json(short, &kafka, 100), Ok(short.to_vec()));
    }
    let packed = gzip(&framed);
    let mut both = said("content-encoding", "gzip");
    both.topic = kafka.topic;
    assert_eq!(json(&packed, &both, 100), Ok(b"{}".to_vec()));
}

proptest! {
    #[test]
    fn whatever_was_packed_comes_back_and_nothing_becomes_more_than_the_limit(
        bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
        limit in 0_usize..3_000,
        deflate in any::<bool>(),
    ) {
        let (packed, name) = if deflate { (zlib(&bytes), "deflate") } else { (gzip(&bytes), "gzip") };
        let envelope = said("content-encoding", name);
        let content = Content::of(&packed, &envelope, limit);
        prop_assert_eq!(content.is_ok(), bytes.len() <= limit);
        if let Ok(content) = content {
            prop_assert_eq!(content.unpacked(), bytes);
        }
    }

    #[test]
    fn any_bytes_under_any_encoding_are_judged(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        encoding in ".{0,20}|gzip|deflate|gzip:utf-8",
        kafka in any::<bool>(),
    ) {
        let mut envelope = said("content_encoding", &encoding);
        envelope.topic = kafka.then(|| "t".to_owned());
        if let Ok(content) = Content::of(&bytes, &envelope, 1_000) {
            prop_assert!(content.unpacked().len() <= 1_000);
            prop_assert!(content.unpacked().ends_with(content.json()));
        }
    }
}
