//! Fetched keys: their source, the rate of requests, and the effect of failures.
use std::{fs, time::Instant};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use portcullis_runtime::Readiness;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{
    fake::Fake,
    fetch::{FetchError, KeySource},
    issuers::KeyPlace,
    *,
};

pub(super) const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Checks tokens and keeps keys, as a gateway does.
pub(super) struct Running {
    pub(super) auth: Arc<Authenticator>,
    pub(super) readiness: Readiness,
    _tasks: JoinSet<()>,
}

impl Running {
    pub(super) fn start(settings: &Settings, client: Option<&kube::Client>) -> Self {
        let auth = Arc::new(Authenticator::with_cluster(settings, client, Metrics::new()).unwrap());
        let (readiness, mut tasks) = (Readiness::default(), JoinSet::new());
        let (kept, latch) = (auth.clone(), readiness.latch("keys"));
        tasks.spawn(async move { kept.keep_keys(latch).await });
        Self { auth, readiness, _tasks: tasks }
    }

    pub(super) async fn ask(&self, token: &str) -> Result<String, AuthError> {
        let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        let identity = match self.auth.look_at(&(&headers).into(), None, false, SystemTime::now()) {
            TokenCheck::Known(identity) => Ok(identity),
            TokenCheck::Refused(error) => Err(error),
            TokenCheck::Pending(pending) => self.auth.ask(*pending).await,
        };
        identity.map(|identity| identity.subject.clone())
    }

    pub(super) async fn ready(&self) {
        let ready = async {
            while self.readiness.ready().is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ready).await.expect("keys arrive");
    }

    fn refreshes(&self, fake: &Fake, outcome: &str) -> u64 {
        let label = fake.address.to_string();
        self.auth.metrics.keys_refreshes.with_label_values(&[label.as_str(), outcome]).get()
    }
}

pub(super) fn jwks(keys: &[(&str, &TestKey)]) -> Value {
    let jwk = |(kid, key): &(&str, &TestKey)| {
        let mut jwk = key.jwk();
        jwk["kid"] = (*kid).into();
        jwk
    };
    json!({"keys": keys.iter().map(jwk).collect::<Vec<_>>()})
}

/// An issuer that publishes this key under the kid `1`.
async fn issuer(key: &TestKey) -> Fake {
    let fake = Fake::start().await;
    fake.show(DISCOVERY, json!({"issuer": fake.url(""), "jwks_uri": fake.url("/keys")}));
    fake.show("/keys", jwks(&[("1", key)]));
    fake
}

fn trusting(fake: &Fake) -> (Settings, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("issuers.yaml");
    fs::write(&path, format!("- {{issuer: '{}', audience: portcullis}}", fake.url(""))).unwrap();
    (Settings { issuers_file: Some(path), ..Settings::default() }, folder)
}

pub(super) fn token(key: &TestKey, kid: &str, iss: &str, sub: &str) -> String {
    let header = format!(r#"{{"alg":"ALG","kid":"{kid}"}}"#);
    key.token(&header, &format!(r#"{{"sub":"{sub}","exp":4000000000,"iss":"{iss}","aud":["portcullis"]}}"#))
}

#[tokio::test]
async fn the_keys_of_an_issuer_are_discovered_and_its_tokens_accepted() {
    let fake = issuer(&RS256).await;
    let (settings, _folder) = trusting(&fake);
    let running = Running::start(&settings, None);
    assert_eq!(running.readiness.ready(), Err(vec!["keys"]));
    running.ready().await;
    assert_eq!(running.ask(&token(&RS256, "1", &fake.url(""), "alice")).await, Ok("alice".into()));
    assert_eq!((running.refreshes(&fake, "changed"), fake.count("/keys")), (1, 1));
    assert!(running.auth.metrics.keys_fetched.with_label_values(&[&fake.address.to_string()]).get() > 1.7e9);
}

#[tokio::test]
async fn a_rotated_key_is_known_within_the_request_that_brings_it() {
    let fake = issuer(&RS256).await;
    let (settings, _folder) = trusting(&fake);
    let running = Running::start(&settings, None);
    running.ready().await;
    let next = TestKey::generate(Algorithm::RS256);
    fake.show("/keys", jwks(&[("1", &RS256), ("2", &next)]));
    assert_eq!(running.ask(&token(&next, "2", &fake.url(""), "bob")).await, Ok("bob".into()));
    // The old key still counts, and one that the issuer withdraws no longer does.
    assert_eq!(running.ask(&token(&RS256, "1", &fake.url(""), "alice")).await, Ok("alice".into()));
    assert_eq!((running.refreshes(&fake, "changed"), fake.count("/keys")), (2, 2));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_makes_one_fetch_and_nobody_waits_after_it() {
    let fake = issuer(&RS256).await;
    let (settings, _folder) = trusting(&fake);
    let running = Running::start(&settings, None);
    running.ready().await;
    let good = token(&RS256, "1", &fake.url(""), "alice");
    assert_eq!(running.ask(&good).await, Ok("alice".into()));
    let tokens: Vec<String> = (0..200).map(|n| token(&ES256, &format!("x{n}"), &fake.url(""), "eve")).collect();
    let outcomes = futures_util::future::join_all(tokens.iter().map(|token| running.ask(token))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Err(AuthError::UnknownKey)), "{:?}", outcomes[0]);
    assert_eq!((fake.count("/keys"), running.refreshes(&fake, "unchanged")), (2, 1));
    // Nothing has changed, so the cache keeps its entries.
    assert_eq!(running.auth.cache.len(), 1);
    fake.hang("/keys");
    let began = Instant::now();
    for token in &tokens {
        assert_eq!(running.ask(token).await, Err(AuthError::UnknownKey));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(fake.count("/keys"), 2);
}

#[tokio::test]
async fn keys_stay_in_use_while_their_issuer_fails() {
    let fake = issuer(&RS256).await;
    let (settings, _folder) = trusting(&fake);
    let running = Running::start(&settings, None);
    running.ready().await;
    fake.show_raw("/keys", "500 Internal Server Error", "");
    assert_eq!(running.ask(&token(&RS256, "2", &fake.url(""), "alice")).await, Err(AuthError::UnknownKey));
    assert_eq!(running.refreshes(&fake, "bad_answer"), 1);
    assert_eq!(running.ask(&token(&RS256, "1", &fake.url(""), "alice")).await, Ok("alice".into()));
}

#[tokio::test]
async fn tokens_of_an_issuer_without_keys_yet_are_put_off_until_it_comes() {
    let fake = issuer(&RS256).await;
    fake.show_raw(DISCOVERY, "503 Service Unavailable", "");
    let (settings, _folder) = trusting(&fake);
    let settings = Settings { secret: Some(Secret::new(SECRET)), ..settings };
    let running = Running::start(&settings, None);
    // The secret is a source of keys.
    running.ready().await;
    let theirs = token(&RS256, "1", &fake.url(""), "alice");
    assert_eq!(running.ask(&theirs).await, Err(AuthError::NoKeys));
    assert_eq!(running.ask(&HS256.plain_token(r#"{"sub":"bob","exp":4000000000}"#)).await, Ok("bob".into()));
    fake.show(DISCOVERY, json!({"issuer": fake.url(""), "jwks_uri": fake.url("/keys")}));
    let came = async {
        while running.ask(&theirs).await != Ok("alice".into()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), came).await.expect("it is asked again");
}

#[tokio::test]
async fn a_request_waits_for_newer_keys_for_two_seconds_at_most() {
    let fake = issuer(&RS256).await;
    let (settings, _folder) = trusting(&fake);
    let running = Running::start(&settings, None);
    running.ready().await;
    fake.hang("/keys");
    let began = Instant::now();
    assert_eq!(running.ask(&token(&RS256, "2", &fake.url(""), "alice")).await, Err(AuthError::UnknownKey));
    assert!((1.9..4.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_is_no_sound_answer_of_the_issuer_itself_is_refused() {
    let fake = issuer(&RS256).await;
    let place = || KeyPlace::Discovery(url::Url::parse(&fake.url(DISCOVERY)).unwrap());
    let fetch = async || {
        let source = KeySource::Listed { place: place(), ca_file: None };
        source.fetch(Some(&fake.url(""))).await.map(|_| ()).map_err(|error| error.to_string())
    };
    let said = |error: FetchError| Err(error.to_string());
    assert_eq!(fetch().await, Ok(()));
    fake.show("/keys", " ".repeat(1024 * 1024 + 1));
    assert_eq!(fetch().await, said(FetchError::TooLarge));
    fake.show_raw("/keys", "302 Found\r\nlocation: /elsewhere", "");
    assert_eq!((fetch().await, fake.count("/elsewhere")), (said(FetchError::Status(302)), 0));
    for document in [
        json!({"issuer": "https://other.example", "jwks_uri": fake.url("/keys")}),
        json!({"issuer": fake.url("/"), "jwks_uri": fake.url("/keys")}),
    ] {
        fake.show(DISCOVERY, document);
        assert_eq!(fetch().await, said(FetchError::OtherIssuer));
    }
    for document in [
        json!({"issuer": fake.url("")}),
        json!({"issuer": fake.url(""), "jwks_uri": "http://keys.example/"}),
        json!({"issuer": fake.url(""), "jwks_uri": "file:///etc/passwd"}),
        json!({"jwks_uri": fake.url("/keys")}),
        json!("garbage"),
    ] {
        fake.show(DISCOVERY, &document);
        assert_eq!(fetch().await, said(FetchError::Document), "{document}");
    }
    fake.hang(DISCOVERY);
    let began = Instant::now();
    assert_eq!(fetch().await, said(FetchError::Slow));
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn garbage_instead_of_keys_changes_nothing() {
    let fake = issuer(&RS256).await;
    let (settings, _folder) = trusting(&fake);
    let running = Running::start(&settings, None);
    running.ready().await;
    for garbage in [json!("keys"), json!({"keys": []}), json!({"keys": [HS256.jwk()]})] {
        fake.show("/keys", &garbage);
        let remote = &running.auth.remotes[0];
        let published = remote.source.fetch(Some(&fake.url(""))).await.unwrap();
        assert!(running.auth.apply(remote, &published).is_err(), "{garbage}");
    }
    assert_eq!(running.ask(&token(&RS256, "1", &fake.url(""), "alice")).await, Ok("alice".into()));
}

#[tokio::test]
async fn a_key_file_is_read_again_when_a_token_names_a_new_key() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, path) = (folder.path().join("keys.json"), folder.path().join("issuers.yaml"));
    fs::write(&keys, jwks(&[("1", &RS256)]).to_string()).unwrap();
    fs::write(&path, format!("- {{issuer: plain, audience: portcullis, jwksFile: {}}}", keys.display())).unwrap();
    let running = Running::start(&Settings { issuers_file: Some(path), ..Settings::default() }, None);
    running.ready().await;
    assert_eq!(running.ask(&token(&RS256, "1", "plain", "alice")).await, Ok("alice".into()));
    let next = TestKey::generate(Algorithm::RS256);
    fs::write(&keys, jwks(&[("2", &next)]).to_string()).unwrap();
    assert_eq!(running.ask(&token(&next, "2", "plain", "bob")).await, Ok("bob".into()));
    assert_eq!(running.ask(&token(&RS256, "1", "plain", "alice")).await, Err(AuthError::UnknownKey));
}
