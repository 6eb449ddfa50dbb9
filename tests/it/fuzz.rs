//! The checks of the fuzz targets, on their corpus and on what becomes of it by chance.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

/// Every input that is kept for a target, and the empty one.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut folders = vec![tests.join("fuzz/corpus").join(target)];
    if target == "model" {
        folders.push(tests.join("rig/bpmn"));
    }
    let mut all = vec![Vec::new()];
    for folder in folders {
        let files = std::fs::read_dir(folder).unwrap();
        all.extend(files.map(|file| std::fs::read(file.unwrap().path()).unwrap()));
    }
    assert!(all.len() > 2, "the corpus of {target} is missing");
    all
}

#[test]
fn the_corpus_of_every_target_holds() {
    for (target, check) in checks::ALL {
        for input in corpus(target) {
            check(&input);
        }
    }
}

/// A change of a part of an input: where, how many bytes go, and what comes.
fn changes() -> impl Strategy<Value = Vec<(Index, usize, Vec<u8>)>> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..4),
        "[ -~\n]{0,8}".prop_map(String::into_bytes),
    ];
    prop::collection::vec((any::<Index>(), 0..6_usize, bytes), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn what_becomes_of_the_corpus_by_chance_holds(
        picked in any::<Index>(),
        with in any::<Index>(),
        changes in changes(),
        spliced in any::<bool>(),
    ) {
        for (target, check) in checks::ALL {
            let corpus = corpus(target);
            let mut input = picked.get(&corpus).clone();
            if spliced {
                let other = with.get(&corpus);
                input.truncate(input.len() / 2);
                input.extend(&other[other.len() / 2..]);
            }
            for (place, gone, come) in &changes {
                let at = place.index(input.len() + 1);
                let end = (at + gone).min(input.len());
                input.splice(at..end, come.iter().copied());
            }
            check(&input);
        }
    }
}
