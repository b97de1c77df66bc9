use super::*;
use tokio::time::{Instant, sleep};

const LIMITS: ClientSessions = ClientSessions { idle_seconds: 60, max: 3, max_per_caller: 2 };

fn clients() -> Arc<Clients> {
    Arc::new(Clients::new(Arc::new(NobodyListens)))
}

fn key(session: u8, subject: u8) -> ClientKey {
    let session = (session > 0).then_some([session; 12]);
    ClientKey { session, subject: SubjectId([subject; 16]), capabilities: ClientCapabilities::NONE, extensions: 0 }
}

fn lease(clients: &Arc<Clients>, key: ClientKey) -> Result<Lease, Refused> {
    clients.lease((&key, &Extensions::default()), LIMITS)
}

#[test]
fn a_client_gets_its_own_session_again_within_the_bounds_and_no_other_clients() {
    let clients = clients();
    let (first, again) = (lease(&clients, key(1, 1)).unwrap(), lease(&clients, key(1, 1)).unwrap());
    assert!(Arc::ptr_eq(&first.client_session, &again.client_session));
    let other = lease(&clients, key(2, 1)).unwrap();
    assert!(!Arc::ptr_eq(&first.client_session, &other.client_session));
    assert_eq!(lease(&clients, key(3, 1)).err(), Some(Refused::Full), "of one caller");
    let _third = lease(&clients, key(0, 2)).unwrap();
    assert_eq!(lease(&clients, key(0, 3)).err(), Some(Refused::Full), "in all");
    assert_eq!(clients.count(), 3);
    clients.end(&[2; 12]);
    assert_eq!(clients.count(), 2);
    assert!(lease(&clients, key(3, 1)).is_ok());
    clients.shut();
    assert_eq!(lease(&clients, key(1, 1)).err(), Some(Refused::Shut));
}

#[test]
fn a_client_that_may_keep_something_is_told_once_that_it_is_lost() {
    let clients = clients();
    // The session was never used, so no state is lost.
    let client_session = lease(&clients, key(1, 1)).unwrap().client_session.clone();
    clients.remove(&client_session, true);
    let client_session = lease(&clients, key(1, 1)).unwrap().client_session.clone();
    client_session.answered();
    clients.remove(&client_session, true);
    assert!(clients.has(&key(1, 1)));
    assert_eq!(lease(&clients, key(1, 1)).err(), Some(Refused::Lost));
    assert!(lease(&clients, key(1, 1)).is_ok());
    // A client without its own session loses no state.
    let client_session = lease(&clients, key(0, 1)).unwrap().client_session.clone();
    client_session.answered();
    clients.remove(&client_session, true);
    assert!(lease(&clients, key(0, 1)).is_ok());
    // A client whose session has ended will not return.
    let client_session = lease(&clients, key(1, 1)).unwrap().client_session.clone();
    client_session.answered();
    clients.end(&[1; 12]);
    assert!(!clients.has(&key(1, 1)));
    let client_session = lease(&clients, key(1, 1)).unwrap().client_session.clone();
    client_session.answered();
    clients.remove(&client_session, true);
    clients.end(&[1; 12]);
    assert!(!clients.has(&key(1, 1)));
}

#[test]
fn a_server_that_is_configured_anew_knows_who_has_lost_something() {
    let (before, after) = (clients(), clients());
    lease(&before, key(1, 1)).unwrap().client_session.answered();
    lease(&before, key(2, 1)).unwrap();
    after.succeed(&before);
    assert_eq!((after.has(&key(1, 1)), after.has(&key(2, 1))), (true, false));
}

#[test]
fn of_many_lost_sessions_the_oldest_are_forgotten_and_those_told_make_room() {
    let mut lost = Lost::default();
    let numbered = |number: usize| -> SessionKey {
        let number = u64::try_from(number).unwrap().to_be_bytes();
        [&number[..], &[0; 4]].concat().try_into().unwrap()
    };
    (0..MOST_LOST + 2).for_each(|number| lost.note(numbered(number)));
    let first: Vec<bool> = (0..4).map(|number| lost.take(&numbered(number))).collect();
    assert_eq!(first, [false, false, true, true]);
    assert!(!lost.take(&numbered(2)), "once");
    // A session that is lost again is the newest.
    lost.note(numbered(4));
    (0..3).for_each(|number| lost.note(numbered(number)));
    assert!(!lost.take(&numbered(5)) && lost.take(&numbered(4)));
    assert_eq!((lost.numbers.len(), lost.by_age.len()), (MOST_LOST - 1, MOST_LOST - 1));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_idle_only_while_no_call_uses_it() {
    let clients = clients();
    let (hour, minute) = (std::time::Duration::from_secs(3600), std::time::Duration::from_secs(60));
    let lease = lease(&clients, key(1, 1)).unwrap();
    let client_session = lease.client_session.clone();
    sleep(hour).await;
    assert!(!clients.remove_idle(&client_session, minute));
    drop(lease);
    assert_eq!(client_session.idle_at(minute), Instant::now() + minute);
    sleep(minute / 2).await;
    assert!(!clients.remove_idle(&client_session, minute));
    sleep(minute / 2).await;
    assert!(clients.remove_idle(&client_session, minute));
    assert_eq!((clients.count(), clients.has(&key(1, 1))), (0, false));
}
