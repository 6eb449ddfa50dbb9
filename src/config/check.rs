//! What the sections must be for each other, as far as it can be told without a connection.

use super::Draft;
use super::failure::instead;
use super::mistake::Mistake;

/// Adds what is wrong between the sections.
pub fn check(draft: &Draft<'_>, mistakes: &mut Vec<Mistake>) {
    let sources: Vec<_> = draft
        .sources
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let engines: Vec<_> = draft
        .engines
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for (name, route) in &draft.routes {
        let Some(route) = route else { continue };
        for (key, wanted, known) in [
            ("source", &route.source, &sources),
            ("engine", &route.engine, &engines),
        ] {
            let span = draft.tree.locate(&["routes", name, key]);
            if !known.contains(&wanted.as_str()) && !draft.is_replaced(&span) {
                mistakes.push(
                    Mistake::error(span, format!("there is no {key} `{wanted}`"))
                        .help(instead(wanted, known)),
                );
            }
        }
    }
}
