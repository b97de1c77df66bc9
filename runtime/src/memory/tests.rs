use super::*;

fn leaked(limit: usize) -> &'static Account {
    Box::leak(Box::new(Account::new(limit)))
}

#[test]
fn a_part_holds_no_more_than_its_share_and_gets_all_of_it_back() {
    let account = leaked(100_000);
    assert_eq!(account.parts().map(|(_, part)| part.limit()), [15_000, 45_000, 40_000]);
    let mut first = Held::of(&account.strangers, 10_000).expect("room");
    assert!(Held::of(&account.strangers, 5_001).is_none() && !first.grow(5_001) && first.grow(5_000));
    assert!(Held::of(&account.callers, 45_000).is_some(), "another part has its own room");
    assert_eq!((account.held(), account.strangers.refused()), (15_000, 1));

    first.set(7_000);
    assert!(first.move_to(&account.large));
    assert_eq!([account.strangers.held(), account.large.held()], [0, 7_000]);
    let full = Held::of(&account.callers, 40_000).expect("room");
    assert!(!first.move_to(&account.callers), "it stays where it is");
    drop((first, full));
    assert_eq!(account.held(), 0);
}

#[test]
fn what_is_small_counts_nothing_and_what_grows_needs_room() {
    let account = leaked(100_000);
    let mut held = Held::none(&account.large);
    let counted = [SMALL, SMALL + 1, 40_000, 40_001, 30_000, SMALL, 0].map(|bytes| (held.count(bytes), held.bytes()));
    let expected =
        [(true, 0), (true, SMALL + 1), (true, 40_000), (false, 40_000), (true, 30_000), (true, 0), (true, 0)];
    assert_eq!((counted, account.held()), (expected, 0));
}

#[test]
fn small_requests_have_allowances_until_the_part_is_full() {
    let account = leaked(1_000_000);
    let mut all = Vec::new();
    while let Some(allowance) = account.allowance() {
        all.push(allowance);
    }
    // 450,000 bytes are six batches of 64 KiB.
    assert_eq!((all.len(), account.callers.held(), account.callers.refused()), (6 * BATCH / REQUEST, 6 * BATCH, 1));
    all.pop();
    assert!(account.allowance().is_some());
    all.clear();
    assert!(account.callers.held() <= 3 * BATCH, "{}", account.callers.held());
}

#[test]
fn kept_bytes_count_until_their_last_piece_is_gone_and_small_ones_never_do() {
    let account = leaked(1_000_000);
    let small = account.kept(vec![b'x'; SMALL]);
    assert_eq!((small.len(), account.held()), (SMALL, 0));
    let large = account.kept(vec![b'x'; SMALL + 1]);
    let piece = large.slice(7..9);
    drop(large);
    assert_eq!((&piece[..], account.large.held()), (&b"xx"[..], SMALL + 1));
    drop(piece);
    assert_eq!(account.held(), 0);
}

/// Returns its bytes on request.
#[derive(Debug)]
struct Stalled(Mutex<Option<Held>>);

impl Relief for Stalled {
    fn relieve(&self) -> bool {
        self.0.lock().take().is_some()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_large_waits_for_room_and_is_refused_after_a_second() {
    let account = leaked(100_000);
    let (mut one, mut two) = (Held::none(&account.large), Held::none(&account.large));
    assert_eq!(account.room(&mut one, 40_000).await, Ok(()));
    let began = Instant::now();
    assert_eq!(account.room(&mut two, 1).await, Err(Full));
    assert_eq!((began.elapsed(), account.any_room().await), (PATIENCE, Err(Full)));
    assert_eq!((account.large.refused(), two.bytes()), (2, 0));

    let waits = account.room(&mut two, 1);
    let leaves = async {
        tokio::time::sleep(PATIENCE / 2).await;
        drop(one);
    };
    assert_eq!(tokio::join!(waits, leaves).0, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_room_ends_those_who_hold_it_and_do_not_move() {
    let account = leaked(100_000);
    let held = Held::of(&account.large, 40_000).expect("room");
    account.add_relief(Box::new(Stalled(Mutex::new(Some(held)))));
    let began = Instant::now();
    assert_eq!(account.any_room().await, Ok(()));
    assert!(began.elapsed() < PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn a_higher_limit_makes_room() {
    let account = leaked(100_000);
    let mut held = Held::none(&account.large);
    let raised = async {
        tokio::task::yield_now().await;
        account.set_limit(200_000);
    };
    assert_eq!(tokio::join!(account.room(&mut held, 50_000), raised).0, Ok(()));
}
