//! What operators and pages see and do.

use std::collections::BTreeSet;

use sluice::finding::{Finding, Level};
use sluice::inbox::{Count, Filter, NewRow, NodeIdentity, RowId, State, StateName};
use sluice::units::Span;
use uuid::Uuid;

use super::rows::{
    change, change_of, dead, done, due_now, insert, insert_many, row, row_in, show, state_of,
    waiting,
};
use super::{Fresh, Kept, on_every_database};

on_every_database! {
    rows_are_counted_by_route_state_and_reason,
    a_state_of_a_newer_version_is_counted_and_left_alone,
    a_list_is_complete_over_its_pages_newest_first,
    a_list_shows_what_the_filter_means,
    a_redrive_makes_dead_and_waiting_rows_due_with_fresh_attempts,
    a_redrive_takes_a_row_away_from_who_drives_it,
    redrive_and_discard_go_on_over_many_pages,
    a_limit_holds_for_redrive_and_discard,
    what_is_discarded_is_done_and_its_key_stays,
    nodes_are_seen_with_their_duplicates_and_forgotten_after_a_day,
    the_probe_writes_and_leaves_nothing,
    an_inspection_says_what_it_found,
}

fn filter() -> Filter {
    Filter {
        limit: 100,
        ..Filter::default()
    }
}

async fn rows_are_counted_by_route_state_and_reason<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let unrouted = NewRow {
        route: None,
        ..row_in("unrouted", dead())
    };
    let rows = [
        row("1"),
        row("2"),
        row_in("3", State::Handed),
        row_in("4", dead()),
        unrouted,
        row_in("5", done()),
        row_in("6", done()),
    ];
    insert(inbox, &rows).await;
    inbox.age("inbox", "received_at").await;
    let counts = inbox.counts().await.unwrap();
    let of = |route: Option<&str>, state: StateName, reason: Option<&str>| -> &Count {
        let same = |count: &&Count| {
            count.route.as_deref() == route
                && count.state == state
                && count.reason.as_deref() == reason
        };
        counts.iter().find(same).unwrap()
    };
    let orders = Some("orders");
    let waits = of(orders, StateName::Waiting, Some("no_subscription"));
    assert_eq!(waits.rows, 2);
    assert!(
        (86_400.0..86_500.0).contains(&waits.oldest_age_seconds),
        "{waits:?}"
    );
    assert_eq!(of(orders, StateName::Handed, None).rows, 1);
    assert_eq!(of(orders, StateName::Dead, Some("mapping")).rows, 1);
    assert_eq!(of(None, StateName::Dead, Some("mapping")).rows, 1);
    assert_eq!(of(None, StateName::Done, None).rows, 2);
    assert_eq!(counts.len(), 5);
}

async fn a_state_of_a_newer_version_is_counted_and_left_alone<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let row = row("a");
    insert(inbox, std::slice::from_ref(&row)).await;
    inbox.sql("UPDATE inbox SET state = 'in_flight'").await;
    assert!(due_now(inbox).await.is_empty());
    let counts = inbox.counts().await.unwrap();
    let other = counts
        .iter()
        .find(|count| count.state == StateName::Other)
        .unwrap();
    assert_eq!(other.rows, 1);
    assert_eq!(inbox.discard(&filter()).await.unwrap(), 0);
    assert_eq!(inbox.redrive(&filter()).await.unwrap(), 0);
    assert_eq!(show(inbox, row.id).await.unwrap().state, StateName::Other);
}

async fn a_list_is_complete_over_its_pages_newest_first<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let mut ids = insert_many(inbox, 25, &waiting(Span::ms(0))).await;
    ids.sort();
    ids.reverse();
    let mut listed = Vec::new();
    let mut page = Filter {
        limit: 10,
        ..Filter::default()
    };
    loop {
        let rows = inbox.list(&page, false).await.unwrap();
        listed.extend(rows.iter().map(|row| row.id));
        // What is accepted meanwhile is newer, and moves nothing from one page to the next.
        let newer = format!("newer-{}", listed.len());
        insert(inbox, &[row(&newer)]).await;
        match rows.last() {
            Some(last) if rows.len() == 10 => page.before = Some(last.id),
            _ => break,
        }
    }
    assert_eq!(listed, ids);
}

async fn a_list_shows_what_the_filter_means<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let old = row_in("old", dead());
    insert(inbox, std::slice::from_ref(&old)).await;
    inbox.age("inbox", "received_at").await;
    let elsewhere = NewRow {
        route: Some("payments".to_owned()),
        ..row("elsewhere")
    };
    let handed = row_in("handed", State::Handed);
    insert(inbox, &[elsewhere.clone(), handed.clone()]).await;

    let listed = async |filter: Filter| -> BTreeSet<RowId> {
        let rows = inbox.list(&filter, false).await.unwrap();
        rows.into_iter().map(|row| row.id).collect()
    };
    let expect = |rows: &[&NewRow]| rows.iter().map(|row| row.id).collect::<BTreeSet<_>>();
    assert_eq!(listed(filter()).await, expect(&[&old, &elsewhere, &handed]));
    let route = Some("payments".to_owned());
    assert_eq!(
        listed(Filter { route, ..filter() }).await,
        expect(&[&elsewhere])
    );
    let state = Some(StateName::Handed);
    assert_eq!(
        listed(Filter { state, ..filter() }).await,
        expect(&[&handed])
    );
    let reason = Some("mapping".to_owned());
    assert_eq!(listed(Filter { reason, ..filter() }).await, expect(&[&old]));
    let dedup_key = Some("handed".to_owned());
    assert_eq!(
        listed(Filter {
            dedup_key,
            ..filter()
        })
        .await,
        expect(&[&handed])
    );
    let ids = vec![old.id, handed.id];
    assert_eq!(
        listed(Filter { ids, ..filter() }).await,
        expect(&[&old, &handed])
    );
    let since = Some(Span::secs(3600));
    assert_eq!(
        listed(Filter { since, ..filter() }).await,
        expect(&[&elsewhere, &handed])
    );
    let both = Filter {
        state: Some(StateName::Handed),
        route: Some("payments".to_owned()),
        ..filter()
    };
    assert_eq!(listed(both).await, expect(&[]));
    let rows = inbox.list(&filter(), false).await.unwrap();
    assert!(
        rows.iter()
            .all(|row| row.payload.is_none() && row.payload_bytes.is_some())
    );
}

async fn a_redrive_makes_dead_and_waiting_rows_due_with_fresh_attempts<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let dead = NewRow {
        attempts: 5,
        ..row_in("dead", dead())
    };
    let later = row_in("later", waiting(Span::days(1)));
    let done = row_in("done", done());
    let handed = row_in("handed", State::Handed);
    insert(
        inbox,
        &[dead.clone(), later.clone(), done.clone(), handed.clone()],
    )
    .await;
    assert!(due_now(inbox).await.is_empty());

    assert_eq!(inbox.redrive(&filter()).await.unwrap(), 2);
    let due: BTreeSet<RowId> = due_now(inbox).await.into_iter().collect();
    assert_eq!(due, BTreeSet::from([dead.id, later.id]));
    let seen = show(inbox, dead.id).await.unwrap();
    assert_eq!(
        (seen.state, seen.attempts, seen.epoch),
        (StateName::Waiting, 0, 2)
    );
    // Somebody waits for it now, whatever it waited for before.
    let seen = show(inbox, later.id).await.unwrap();
    assert_eq!(seen.reason.as_deref(), Some("retry"));
    assert_eq!(state_of(inbox, done.id).await, Some(StateName::Done));
    assert_eq!(state_of(inbox, handed.id).await, Some(StateName::Handed));
}

async fn a_redrive_takes_a_row_away_from_who_drives_it<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let row = row("a");
    insert(inbox, std::slice::from_ref(&row)).await;
    inbox.redrive(&filter()).await.unwrap();
    let stale = change_of(row.id, StateName::Waiting, dead());
    assert!(change(inbox, &[stale]).await.is_empty());
}

async fn redrive_and_discard_go_on_over_many_pages<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    insert_many(inbox, 1203, &dead()).await;
    let all = Filter::default();
    assert_eq!(inbox.redrive(&all).await.unwrap(), 1203);
    assert_eq!(inbox.discard(&all).await.unwrap(), 1203);
    assert_eq!(inbox.discard(&all).await.unwrap(), 0);
}

async fn a_limit_holds_for_redrive_and_discard<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    insert_many(inbox, 10, &dead()).await;
    let some = |limit| Filter {
        state: Some(StateName::Dead),
        limit,
        ..Filter::default()
    };
    assert_eq!(inbox.redrive(&some(3)).await.unwrap(), 3);
    assert_eq!(inbox.discard(&some(4)).await.unwrap(), 4);
    assert_eq!(inbox.redrive(&some(9)).await.unwrap(), 3);
}

async fn what_is_discarded_is_done_and_its_key_stays<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let (dead, handed) = (row_in("dead", dead()), row_in("handed", State::Handed));
    insert(inbox, &[dead.clone(), handed.clone()]).await;
    assert_eq!(inbox.discard(&filter()).await.unwrap(), 1);
    let seen = show(inbox, dead.id).await.unwrap();
    assert_eq!(seen.state, StateName::Done);
    assert_eq!(seen.detail, "discarded by an operator");
    assert_eq!(state_of(inbox, handed.id).await, Some(StateName::Handed));
    assert!(insert(inbox, &[row("dead")]).await.is_empty());
    let at_once = sluice::inbox::Retention {
        payload: Span::ms(0),
        key: Span::days(1),
    };
    inbox.age("inbox", "done_at").await;
    assert_eq!(inbox.purge(at_once, 10).await.unwrap().keys, 1);
}

async fn nodes_are_seen_with_their_duplicates_and_forgotten_after_a_day<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let node = |name: &str| NodeIdentity {
        incarnation: Uuid::now_v7(),
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
    };
    let (old, new) = (node("old"), node("new"));
    inbox.beat(&old).await.unwrap();
    for duplicates in [2, 3] {
        let mut tx = inbox.begin().await.unwrap();
        inbox
            .count_duplicates(&mut tx, old.incarnation, duplicates)
            .await
            .unwrap();
        inbox.commit(tx).await.unwrap();
    }
    inbox.beat(&new).await.unwrap();
    let nodes = inbox.nodes().await.unwrap();
    assert_eq!(nodes.len(), 2);
    let seen = nodes
        .iter()
        .find(|node| node.incarnation == old.incarnation)
        .unwrap();
    assert_eq!(
        (&*seen.name, &*seen.version, seen.duplicates),
        ("old", "0.1.0", 5)
    );
    assert!(seen.seen_seconds_ago < 60.0 && seen.started_seconds_ago < 60.0);

    for (table, column) in [("node", "seen_at"), ("node_counter", "changed_at")] {
        inbox.age(table, column).await;
    }
    inbox.beat(&new).await.unwrap();
    let nodes = inbox.nodes().await.unwrap();
    let left: Vec<&str> = nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(left, ["new"]);
}

async fn the_probe_writes_and_leaves_nothing<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    inbox.probe().await.unwrap();
    inbox.probe().await.unwrap();
    // A row left behind would collide.
    inbox
        .sql("CREATE UNIQUE INDEX one_probe ON probe ((1))")
        .await;
    inbox.probe().await.unwrap();
    inbox.sql("DROP TABLE probe").await;
    let error = inbox.probe().await.unwrap_err();
    assert_eq!(error.class, sluice::inbox::Class::Outage);
}

async fn an_inspection_says_what_it_found<I: Kept>(fresh: Fresh<I>) {
    let findings = fresh.inbox.inspect().await.unwrap();
    assert!(findings[0].text.contains("SQL"), "{findings:?}");
    // The tests' own server has no standby, and a warning for that.
    let expected = |finding: &Finding| {
        finding.level == Level::Info || finding.text.contains("no synchronous standby")
    };
    assert!(findings.iter().all(expected), "{findings:?}");
}
