//! Service-account tokens of the cluster, and their review.
use std::time::Instant;

use super::{
    fake::Fake,
    fetching::{DISCOVERY, Running, jwks, token},
    *,
};
use crate::auth::SubjectId;

const ISS: &str = "https://kubernetes.default.svc.cluster.local";
const SUB: &str = "system:serviceaccount:team-a:agent";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

async fn cluster() -> (Fake, kube::Client) {
    let fake = Fake::start().await;
    let algorithms = json!(["RS256"]);
    fake.show(DISCOVERY, json!({"issuer": ISS, "id_token_signing_alg_values_supported": algorithms}));
    fake.show("/openid/v1/jwks", jwks(&[("1", &RS256), ("2", &ES256)]));
    let client = kube::Client::try_from(kube::Config::new(fake.url("").parse().unwrap())).unwrap();
    (fake, client)
}

fn settings(review: bool) -> Settings {
    Settings {
        kubernetes: Some(Kubernetes { audience: "portcullis".into(), kept: None, review }),
        ..Settings::default()
    }
}

fn review(authenticated: bool, user: &str, audiences: &[&str]) -> Value {
    json!({"status": {"authenticated": authenticated, "audiences": audiences, "user": {"username": user}}})
}

#[tokio::test]
async fn a_service_account_is_known_by_its_sub_with_the_keys_that_the_cluster_publishes() {
    let (fake, client) = cluster().await;
    let running = Running::start(&settings(false), Some(&client));
    assert_eq!(running.readiness.ready(), Err(vec!["keys"]));
    assert_eq!(running.ask(&token(&RS256, "1", ISS, SUB)).await, Err(AuthError::NoKeys));
    running.ready().await;
    assert_eq!(running.ask(&token(&RS256, "1", ISS, SUB)).await, Ok(SUB.into()));
    assert_eq!(running.ask(&token(&RS256, "1", "https://other.example", SUB)).await, Err(AuthError::Issuer));
    // A key of an algorithm that the cluster does not declare is not accepted for its tokens.
    assert_eq!(running.ask(&token(&ES256, "2", ISS, SUB)).await, Err(AuthError::UnknownKey));
    let claims = format!(r#"{{"sub":"{SUB}","exp":4000000000,"iss":"{ISS}","aud":["{ISS}"]}}"#);
    assert_eq!(running.ask(&RS256.token(r#"{"alg":"ALG","kid":"1"}"#, &claims)).await, Err(AuthError::Audience));
    assert_eq!(fake.count(REVIEWS), 0);
}

#[tokio::test]
async fn a_cluster_that_has_the_name_of_another_issuer_is_not_used() {
    let (_fake, client) = cluster().await;
    let folder = tempfile::tempdir().unwrap();
    let (keys, path) = (folder.path().join("keys.json"), folder.path().join("issuers.yaml"));
    std::fs::write(&keys, jwks(&[("1", &ES256)]).to_string()).unwrap();
    std::fs::write(&path, format!("- {{issuer: '{ISS}', audience: portcullis, jwksFile: {}}}", keys.display()))
        .unwrap();
    let running = Running::start(&Settings { issuers_file: Some(path), ..settings(true) }, Some(&client));
    let remote = &running.auth.remotes[1];
    let published = remote.source.fetch(None).await.unwrap();
    assert!(running.auth.apply(remote, &published).is_err());
    assert_eq!(running.ask(&token(&RS256, "1", ISS, SUB)).await, Err(AuthError::UnknownKey));
    assert_eq!(running.auth.reviewer_of(1).map(|_| ()), Some(()));
}

#[tokio::test]
async fn the_cluster_is_asked_once_about_each_token_and_its_answer_counts() {
    let (fake, client) = cluster().await;
    let running = Running::start(&settings(true), Some(&client));
    running.ready().await;
    fake.show(REVIEWS, review(true, SUB, &["portcullis"]));
    let good = token(&RS256, "1", ISS, SUB);
    let outcomes = futures_util::future::join_all((0..20).map(|_| running.ask(&good))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(SUB.into())), "{outcomes:?}");
    assert_eq!(running.ask(&good).await, Ok(SUB.into()));
    assert_eq!(fake.count(REVIEWS), 1);
    for (n, answer) in [
        review(false, "", &[]),
        review(true, "system:serviceaccount:team-a:other", &["portcullis"]),
        review(true, SUB, &[]),
        review(true, SUB, &["elsewhere"]),
        json!({"status": {}}),
    ]
    .into_iter()
    .enumerate()
    {
        fake.show(REVIEWS, &answer);
        let other = RS256.token(
            r#"{"alg":"ALG","kid":"1"}"#,
            &format!(r#"{{"sub":"{SUB}","exp":400000000{n},"iss":"{ISS}","aud":"portcullis"}}"#),
        );
        for _ in 0..2 {
            assert_eq!(running.ask(&other).await, Err(AuthError::Revoked), "{answer}");
        }
    }
    assert_eq!(fake.count(REVIEWS), 6);
    // An invalid token is not reviewed.
    assert_eq!(running.ask(&token(&ES256, "1", ISS, SUB)).await, Err(AuthError::UnknownKey));
    assert_eq!(fake.count(REVIEWS), 6);
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_leaves_only_tokens_it_has_just_accepted() {
    let (fake, client) = cluster().await;
    let running = Running::start(&settings(true), Some(&client));
    running.ready().await;
    fake.show(REVIEWS, review(true, SUB, &["portcullis"]));
    let known = token(&RS256, "1", ISS, SUB);
    assert_eq!(running.ask(&known).await, Ok(SUB.into()));
    fake.show_raw(REVIEWS, "403 Forbidden", "{}");
    let unknown = token(&RS256, "1", ISS, "system:serviceaccount:team-a:other");
    assert_eq!(running.ask(&unknown).await, Err(AuthError::NoReview));
    assert_eq!(running.ask(&known).await, Ok(SUB.into()));
    // That was no answer, so the next request asks again.
    fake.show(REVIEWS, review(true, "system:serviceaccount:team-a:other", &["portcullis"]));
    assert_eq!(running.ask(&unknown).await, Ok("system:serviceaccount:team-a:other".into()));
    let outcomes = ["accepted", "refused", "unavailable"];
    let counts = outcomes.map(|outcome| running.auth.metrics.token_reviews.with_label_values(&[outcome]).get());
    assert_eq!(counts, [2, 0, 1]);
}

#[test]
fn an_accepted_review_is_remembered_for_thirty_seconds_and_no_longer() {
    let cache = TokenCache::default();
    let identity = Arc::new(Identity {
        subject: SUB.into(),
        issuer: None,
        expires_at: now() + Duration::from_secs(600),
        claims: "{}".into(),
        subject_id: SubjectId::new(None, SUB),
        access: AccessFacts::default(),
    });
    cache.insert(&cache.lookup("token"), &identity, now(), MAX_AGE_REVIEWED);
    let at = |seconds| cache.get(&cache.lookup("token"), now() + Duration::from_secs(seconds)).is_some();
    assert_eq!([0, 29, 30, 59].map(at), [true, true, false, false]);
}

/// Settings with a kept file of keys that was fetched `age` seconds ago.
fn with_kept(folder: &tempfile::TempDir, age: i64, keys: &Value) -> Settings {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let fetched = i64::try_from(now).unwrap() - age;
    let kept = json!({"version": 1, "fetched": fetched, "issuer": ISS, "algorithms": ["RS256"], "keys": keys});
    let path = folder.path().join("keys.json");
    std::fs::write(&path, kept.to_string()).unwrap();
    let kubernetes = Kubernetes { audience: "portcullis".into(), kept: Some(path), review: false };
    Settings { kubernetes: Some(kubernetes), ..Settings::default() }
}

#[tokio::test]
async fn a_cluster_that_is_away_at_the_start_is_checked_with_the_keys_that_were_kept_until_it_answers() {
    for away in ["refuses", "hangs"] {
        let (fake, client) = cluster().await;
        match away {
            "refuses" => fake.show_raw(DISCOVERY, "503 Service Unavailable", ""),
            _ => fake.hang(DISCOVERY),
        }
        let folder = tempfile::tempdir().unwrap();
        let settings = with_kept(&folder, 3600, &jwks(&[("1", &RS256)]));
        let began = Instant::now();
        let running = Running::start(&settings, Some(&client));
        running.ready().await;
        assert!(began.elapsed() < Duration::from_secs(4), "{away}: {:?}", began.elapsed());
        assert_eq!(running.ask(&token(&RS256, "1", ISS, SUB)).await, Ok(SUB.into()), "{away}");
        assert_eq!(running.ask(&token(&ES256, "2", ISS, SUB)).await, Err(AuthError::UnknownKey), "{away}");
    }
}

#[tokio::test]
async fn kept_keys_that_are_old_broken_or_missing_vouch_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let keys = jwks(&[("1", &RS256)]);
    let (fake, client) = cluster().await;
    fake.show_raw(DISCOVERY, "503 Service Unavailable", "");
    let two_days = 2 * 24 * 3600;
    for (settings, what) in [
        (with_kept(&folder, two_days, &keys), "old"),
        (with_kept(&folder, -3600, &keys), "of the future"),
        (with_kept(&folder, 0, &json!({"keys": []})), "without keys"),
    ] {
        let running = Running::start(&settings, Some(&client));
        let before = fake.count(DISCOVERY);
        while fake.count(DISCOVERY) <= before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(running.ask(&token(&RS256, "1", ISS, SUB)).await, Err(AuthError::NoKeys), "{what}");
    }
}

#[tokio::test]
async fn the_cluster_itself_counts_more_than_what_was_kept_of_it() {
    let (_fake, client) = cluster().await;
    let folder = tempfile::tempdir().unwrap();
    // A third party has put its own key there.
    let running = Running::start(&with_kept(&folder, 0, &jwks(&[("mine", &RS256)])), Some(&client));
    running.ready().await;
    assert_eq!(running.ask(&token(&RS256, "mine", ISS, SUB)).await, Err(AuthError::UnknownKey));
    assert_eq!(running.ask(&token(&RS256, "1", ISS, SUB)).await, Ok(SUB.into()));
}
