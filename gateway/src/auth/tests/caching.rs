//! The token cache: its content and its lifetime.
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use portcullis_runtime::WorkerThreads;
use tokio::task::JoinSet;

use super::{
    cache::*,
    verify::{Name, Trust},
    *,
};
use crate::auth::SubjectId;

fn after(seconds: u64) -> SystemTime {
    now() + Duration::from_secs(seconds)
}

fn bearer(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).unwrap())])
}

fn identity(seconds: u64) -> Arc<Identity> {
    Arc::new(Identity {
        subject: "alice".into(),
        issuer: None,
        expires_at: after(seconds),
        claims: "{}".into(),
        subject_id: SubjectId::new(None, "alice"),
        access: AccessFacts::default(),
    })
}

#[test]
fn a_token_is_checked_once_and_then_remembered() {
    let authenticator = Authenticator::from_issuers(vec![HS256.issuer()]).unwrap();
    let headers = bearer(&HS256.plain_token(GOOD_CLAIMS));
    let ask = |now| authenticator.authenticate_at(&headers, None, false, now).unwrap();
    let first = ask(now());
    assert!(Arc::ptr_eq(&first, &ask(after(59))));
    let second = ask(after(60));
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(first, second);
    assert!(Arc::ptr_eq(&second, &ask(after(61))));
}

#[test]
fn a_remembered_token_expires_like_any_other() {
    let authenticator = Authenticator::from_issuers(vec![HS256.issuer()]).unwrap();
    let headers = bearer(&HS256.plain_token(r#"{"sub":"alice","exp":2000000005}"#));
    let ask = |now| authenticator.authenticate_at(&headers, None, false, now).map(|identity| identity.subject.clone());
    for seconds in [0, 4, 5, 14] {
        assert_eq!(ask(after(seconds)), Ok("alice".to_owned()), "{seconds}");
    }
    assert_eq!(ask(after(15)), Err(AuthError::Expired));
}

#[test]
fn new_keys_end_what_the_old_ones_vouched_for() {
    let authenticator = Authenticator::from_issuers(vec![HS256.issuer(), ES256.issuer()]).unwrap();
    let ask = |token: &str| authenticator.authenticate_at(&bearer(token), None, false, now()).map(|_| ());
    let (old, other) = (HS256.plain_token(GOOD_CLAIMS), ES256.plain_token(GOOD_CLAIMS));
    assert_eq!((ask(&old), ask(&other)), (Ok(()), Ok(())));
    let fresh = TestKey::hmac(b"another secret of good length and content");
    authenticator.trust(0, Trust { name: Name::Any, keys: fresh.key_set() });
    assert_eq!(authenticator.cache.len(), 0);
    assert_eq!(ask(&old), Err(AuthError::Signature));
    assert_eq!(ask(&fresh.plain_token(GOOD_CLAIMS)), Ok(()));
    assert_eq!(ask(&other), Ok(()));
}

#[test]
fn keys_of_an_algorithm_that_the_issuer_does_not_accept_change_nothing() {
    let authenticator = Authenticator::from_issuers(vec![ES256.issuer()]).unwrap();
    authenticator.trust(0, Trust { name: Name::Any, keys: HS256.key_set() });
    let headers = bearer(&HS256.plain_token(GOOD_CLAIMS));
    let outcome = authenticator.authenticate_at(&headers, None, false, now());
    assert_eq!(outcome, Err(AuthError::Algorithm));
}

#[test]
fn a_check_that_overlaps_a_change_of_keys_is_not_remembered() {
    let cache = TokenCache::default();
    let early = cache.lookup("token");
    cache.forget_all();
    cache.insert(&early, &identity(600), now(), MAX_AGE);
    assert_eq!(cache.get(&cache.lookup("token"), now()), None);
    let late = cache.lookup("token");
    cache.insert(&late, &identity(600), now(), MAX_AGE);
    assert_eq!(cache.get(&cache.lookup("token"), now()), Some(identity(600)));
}

#[test]
fn refusals_are_not_remembered() {
    let authenticator = Authenticator::from_issuers(vec![HS256.issuer()]).unwrap();
    for token in ["", "x", &ES256.plain_token(GOOD_CLAIMS), &HS256.plain_token(r#"{"exp":1}"#)] {
        authenticator.authenticate_at(&bearer(token), None, false, now()).unwrap_err();
    }
    assert_eq!(authenticator.cache.len(), 0);
    // A token that was not valid yet becomes valid in time.
    let headers = bearer(&HS256.plain_token(r#"{"exp":2000000600,"nbf":2000000100}"#));
    let ask = |now| authenticator.authenticate_at(&headers, None, false, now).map(|_| ());
    assert_eq!(ask(now()), Err(AuthError::NotYetValid));
    assert_eq!(ask(after(100)), Ok(()));
}

#[test]
fn a_clock_that_was_set_back_voids_what_is_remembered() {
    let cache = TokenCache::default();
    let lookup = cache.lookup("token");
    cache.insert(&lookup, &identity(600), after(100), MAX_AGE);
    assert_eq!(cache.get(&lookup, after(99)), None);
    assert_eq!(cache.get(&lookup, after(100)), Some(identity(600)));
}

#[tokio::test]
async fn what_one_worker_has_checked_the_others_need_not_check() {
    let (cache, threads) = (Arc::new(TokenCache::default()), WorkerThreads::start(2).unwrap());
    let (workers, mut tasks) = (threads.workers(), JoinSet::new());
    let lookup = cache.lookup("token");
    cache.insert(&lookup, &identity(600), now(), MAX_AGE);
    // The second worker's seat: this thread has the part of the first.
    let _first = workers.seat();
    let (there, seat) = (cache.clone(), workers.seat().unwrap());
    let asking = async move {
        let lookup = there.lookup("token");
        [now(), now(), now() + MAX_AGE].map(|at| there.get(&lookup, at))
    };
    seat.spawn(&mut tasks, asking);
    assert_eq!(tasks.join_next().await.unwrap().unwrap(), [Some(identity(600)), Some(identity(600)), None]);
    cache.forget_all();
    assert_eq!((cache.get(&cache.lookup("token"), now()), cache.len()), (None, 0));
}

#[test]
fn only_the_whole_token_is_recognised() {
    let cache = TokenCache::default();
    cache.insert(&cache.lookup("token"), &identity(600), now(), MAX_AGE);
    for other in ["", "toke", "token ", "Token"] {
        assert_eq!(cache.get(&cache.lookup(other), now()), None, "{other:?}");
    }
}

#[test]
fn no_more_than_the_capacity_is_remembered_and_expired_ones_go_first() {
    let cache = TokenCache::default();
    let (short, long) = (identity(1), identity(600));
    for number in 0..2 * CAPACITY {
        cache.insert(&cache.lookup(&format!("short {number}")), &short, now(), MAX_AGE);
        assert!(cache.len() <= CAPACITY);
    }
    cache.insert(&cache.lookup("kept"), &long, now(), MAX_AGE);
    for number in 0..CAPACITY / 4 {
        cache.insert(&cache.lookup(&format!("long {number}")), &long, after(2), MAX_AGE);
    }
    assert_eq!(cache.get(&cache.lookup("kept"), after(2)), Some(long));
}
