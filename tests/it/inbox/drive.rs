//! Take and change.

use sluice::inbox::{Change, Expires, NewRow, RowId, State, StateName, Target, Woken};
use sluice::message::WaitReason;
use sluice::units::Span;

use super::rows::{
    by_id, change, change_of, dead, done, due, due_bytes, due_now, due_of_none, insert, row,
    row_in, show, state_of, waiting, waits_for,
};
use super::{Fresh, Kept, on_every_database};

on_every_database! {
    due_rows_come_with_the_longest_due_first_and_no_more_than_asked_for,
    only_what_is_due_of_these_routes_or_only_of_none_is_taken,
    no_more_bytes_are_taken_than_asked_for_but_at_least_one_row,
    rows_are_taken_by_id_only_while_they_wait,
    every_waiting_row_is_seen_by_the_sweeps_whatever_its_reason,
    a_change_compares_state_and_epoch,
    a_change_writes_state_target_and_attempts,
    only_the_databases_clock_decides_that_a_row_has_expired,
    a_row_is_due_when_its_ttl_is_used_up,
    a_row_that_was_handed_can_wait_again_and_its_ttl_runs_on,
    a_change_made_earlier_in_the_transaction_is_seen_by_the_next,
}

async fn due_rows_come_with_the_longest_due_first_and_no_more_than_asked_for<I: Kept>(
    fresh: Fresh<I>,
) {
    let inbox = &fresh.inbox;
    // Each due a day before the one after it; then the oldest is driven again, and due just now.
    let mut ids = Vec::new();
    for n in 0..5 {
        inbox.age("inbox", "due_at").await;
        ids.extend(insert(inbox, &[row(&n.to_string())]).await);
    }
    inbox.age("inbox", "due_at").await;
    change(
        inbox,
        &[change_of(ids[0], StateName::Waiting, waiting(Span::ms(0)))],
    )
    .await;
    ids.rotate_left(1);

    let mut tx = inbox.begin().await.unwrap();
    let taken: Vec<RowId> = due(inbox, &mut tx, 3)
        .await
        .iter()
        .map(|row| row.id)
        .collect();
    inbox.commit(tx).await.unwrap();
    assert_eq!(taken, ids[..3]);
    assert_eq!(due_now(inbox).await, ids);
}

async fn only_what_is_due_of_these_routes_or_only_of_none_is_taken<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let of_route = |key: &str, route: Option<&str>| NewRow {
        route: route.map(str::to_owned),
        ..row(key)
    };
    let known = of_route("known", Some("payments"));
    let none = of_route("none", None);
    let rows = [
        known.clone(),
        none.clone(),
        of_route("unknown", Some("of a newer configuration")),
        row_in("later", waiting(Span::secs(60))),
        row_in("handed", State::Handed),
        row_in("done", done()),
        row_in("dead", dead()),
    ];
    insert(inbox, &rows).await;
    assert_eq!(due_now(inbox).await, [known.id]);
    let mut tx = inbox.begin().await.unwrap();
    let taken = due_of_none(inbox, &mut tx).await;
    let taken: Vec<RowId> = taken.iter().map(|row| row.id).collect();
    assert_eq!(taken, [none.id]);
}

async fn no_more_bytes_are_taken_than_asked_for_but_at_least_one_row<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let mut woken = Vec::new();
    for n in 0..4 {
        let big = NewRow {
            payload: vec![b' '; 1000].into(),
            envelope: vec![b' '; 500],
            ..row(&n.to_string())
        };
        woken.push(Woken::of(big.id));
        insert(inbox, &[big]).await;
    }
    for (bytes, rows) in [(1, 1), (1500, 1), (1501, 2), (3000, 2), (1 << 20, 4)] {
        let mut tx = inbox.begin().await.unwrap();
        let taken = due_bytes(inbox, &mut tx, 10, bytes).await;
        assert_eq!(taken.len(), rows, "{bytes} bytes");
        let taken = inbox.take(&mut tx, by_id(&woken, bytes), &[]).await;
        assert_eq!(taken.unwrap().rows.len(), rows, "{bytes} bytes, by id");
        inbox.commit(tx).await.unwrap();
    }
}

/// No row waits for ever unseen: the due sweep looks at every reason, also where an engine's wake does.
async fn every_waiting_row_is_seen_by_the_sweeps_whatever_its_reason<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    // One that is behind another of its order key is due when it is that key's first: see the tests of order.
    let reasons = WaitReason::ALL
        .into_iter()
        .filter(|&reason| reason != WaitReason::Ordered);
    let rows: Vec<NewRow> = reasons
        .map(|reason| {
            row_in(
                reason.as_str(),
                waits_for(reason, Span::ms(0), Expires::Never),
            )
        })
        .collect();
    insert(inbox, &rows).await;
    let mut waiting: Vec<RowId> = rows.iter().map(|row| row.id).collect();
    let mut seen = due_now(inbox).await;
    waiting.sort();
    seen.sort();
    assert_eq!(seen, waiting);
}

async fn rows_are_taken_by_id_only_while_they_wait<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let waits = row_in("waits", waiting(Span::secs(60)));
    let rows = [
        waits.clone(),
        row_in("handed", State::Handed),
        row_in("done", done()),
        row_in("dead", dead()),
        row("not asked for"),
    ];
    insert(inbox, &rows).await;
    let ids = rows[..4].iter().map(|row| row.id).chain([RowId::fresh()]);
    let woken: Vec<Woken> = ids.map(Woken::of).collect();
    let mut tx = inbox.begin().await.unwrap();
    let taken = inbox
        .take(&mut tx, by_id(&woken, i64::MAX), &[])
        .await
        .unwrap();
    inbox.commit(tx).await.unwrap();
    let taken: Vec<RowId> = taken.rows.iter().map(|row| row.id).collect();
    assert_eq!(taken, [waits.id]);
}

async fn a_change_compares_state_and_epoch<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let (first, second) = (row("a"), row("b"));
    insert(inbox, &[first.clone(), second.clone()]).await;

    let right = change_of(first.id, StateName::Waiting, State::Handed);
    let stale_epoch = Change {
        epoch: 0,
        ..change_of(second.id, StateName::Waiting, dead())
    };
    let stale_state = change_of(second.id, StateName::Handed, dead());
    let unknown = change_of(RowId::fresh(), StateName::Waiting, dead());
    let changes = [right.clone(), stale_epoch, stale_state, unknown];
    assert_eq!(change(inbox, &changes).await, [first.id]);
    assert_eq!(state_of(inbox, first.id).await, Some(StateName::Handed));
    assert_eq!(state_of(inbox, second.id).await, Some(StateName::Waiting));
    assert!(
        change(inbox, &[right]).await.is_empty(),
        "a second time it is stale"
    );
    assert!(change(inbox, &[]).await.is_empty());
}

async fn a_change_writes_state_target_and_attempts<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let row = row("a");
    insert(inbox, std::slice::from_ref(&row)).await;
    let target = Target {
        message_name: None,
        business_key: Some("mended".to_owned()),
        announced: false,
    };
    let mended = Change {
        attempts_used: 1,
        target: Some((Some("other".to_owned()), target)),
        ..change_of(
            row.id,
            StateName::Waiting,
            waits_for(WaitReason::Retry, Span::secs(9), Expires::Never),
        )
    };
    change(inbox, &[mended]).await;
    let seen = show(inbox, row.id).await.unwrap();
    assert_eq!(seen.engine.as_deref(), Some("other"));
    assert_eq!(seen.message_name, None);
    assert_eq!(seen.business_key.as_deref(), Some("mended"));
    assert_eq!((seen.epoch, seen.attempts), (2, 1));
    assert_eq!(seen.reason.as_deref(), Some("retry"));
    assert!(seen.due_at > Some(seen.changed_at));

    let finished = Change {
        epoch: 2,
        new_epoch: 3,
        attempts_used: 2,
        ..change_of(
            row.id,
            StateName::Waiting,
            State::Done {
                detail: "by hand".to_owned(),
                process_instance_id: Some("instance".to_owned()),
            },
        )
    };
    change(inbox, &[finished]).await;
    let seen = show(inbox, row.id).await.unwrap();
    assert_eq!(
        seen.business_key.as_deref(),
        Some("mended"),
        "no target: as it was"
    );
    assert_eq!((seen.epoch, seen.attempts), (3, 3));
    assert_eq!((seen.reason, seen.due_at), (None, None));
    assert_eq!(seen.detail, "by hand");
    assert_eq!(seen.process_instance_id.as_deref(), Some("instance"));
}

async fn only_the_databases_clock_decides_that_a_row_has_expired<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let expiring = |key: &str, ttl: Span| {
        let state = waits_for(
            WaitReason::NoSubscription,
            Span::ms(0),
            Expires::Within(ttl),
        );
        row_in(key, state)
    };
    let (over, running, never) = (
        expiring("over", Span::ms(0)),
        expiring("running", Span::secs(3600)),
        row("never"),
    );
    insert(inbox, &[over.clone(), running.clone(), never.clone()]).await;
    let expired = async |id: RowId| {
        let mut tx = inbox.begin().await.unwrap();
        let rows = due(inbox, &mut tx, 10).await;
        inbox.commit(tx).await.unwrap();
        rows.iter().find(|row| row.id == id).unwrap().expired
    };
    assert!(expired(over.id).await);
    assert!(!expired(running.id).await);
    assert!(!expired(never.id).await);
    inbox.age("inbox", "expires_at").await;
    assert!(expired(running.id).await);
    assert!(!expired(never.id).await);
}

async fn a_row_is_due_when_its_ttl_is_used_up<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let within = |ttl| {
        waits_for(
            WaitReason::NoSubscription,
            Span::secs(3600),
            Expires::Within(ttl),
        )
    };
    let at_birth = row_in("at birth", within(Span::ms(0)));
    let later = row_in("later", State::Handed);
    let patient = row_in("patient", within(Span::days(1)));
    insert(inbox, &[at_birth.clone(), later.clone(), patient]).await;
    assert_eq!(due_now(inbox).await, [at_birth.id]);
    change(
        inbox,
        &[change_of(later.id, StateName::Handed, within(Span::ms(0)))],
    )
    .await;
    assert_eq!(due_now(inbox).await, [at_birth.id, later.id]);
    // The ttl runs on from where it began, whatever the next look says.
    let again = Change {
        epoch: 2,
        new_epoch: 3,
        ..change_of(later.id, StateName::Waiting, within(Span::days(1)))
    };
    assert_eq!(change(inbox, &[again]).await, [later.id]);
    assert_eq!(due_now(inbox).await, [at_birth.id, later.id]);
}

async fn a_row_that_was_handed_can_wait_again_and_its_ttl_runs_on<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let within = |ttl| {
        waits_for(
            WaitReason::NoSubscription,
            Span::ms(0),
            Expires::Within(ttl),
        )
    };
    let row = row_in("a", within(Span::secs(3600)));
    insert(inbox, std::slice::from_ref(&row)).await;
    let expires = async || show(inbox, row.id).await.unwrap().expires_at;
    let began = expires().await;
    assert!(began.is_some());

    change(
        inbox,
        &[change_of(row.id, StateName::Waiting, State::Handed)],
    )
    .await;
    let back = |epoch, state| Change {
        epoch,
        new_epoch: epoch + 1,
        ..change_of(row.id, StateName::Handed, state)
    };
    change(inbox, &[back(2, within(Span::days(9)))]).await;
    assert_eq!(expires().await, began, "it goes on where it was");

    let from_waiting = |epoch, state| Change {
        epoch,
        new_epoch: epoch + 1,
        ..change_of(row.id, StateName::Waiting, state)
    };
    change(inbox, &[from_waiting(3, waiting(Span::ms(0)))]).await;
    assert_eq!(expires().await, None, "it does not run in this state");
    change(inbox, &[from_waiting(4, within(Span::days(9)))]).await;
    assert!(expires().await > began, "it begins anew");
    // For ever is a time that every database must be able to hold.
    change(
        inbox,
        &[from_waiting(5, waiting(Span(std::time::Duration::MAX)))],
    )
    .await;
    assert!(due_now(inbox).await.is_empty());
}

async fn a_change_made_earlier_in_the_transaction_is_seen_by_the_next<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let row = row_in("a", State::Handed);
    let mut tx = inbox.begin().await.unwrap();
    inbox
        .insert(&mut tx, std::slice::from_ref(&row))
        .await
        .unwrap();
    let missed = Change {
        new_epoch: 1,
        ..change_of(row.id, StateName::Handed, waiting(Span::ms(0)))
    };
    assert_eq!(inbox.change(&mut tx, &[missed]).await.unwrap(), [row.id]);
    inbox.commit(tx).await.unwrap();
    assert_eq!(due_now(inbox).await, [row.id]);
}
