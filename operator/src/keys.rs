//! Keeps the public keys of the cluster's service accounts in a ConfigMap beside the slots, so that a gateway that starts
//! while the API server is away has them in its mounted copy.

use std::collections::BTreeMap;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use portcullis_crds::kept_keys::{KeptKeys, MAX_BYTES, VERSION};
use portcullis_crds::names::KEPT_KEYS_KEY;
use portcullis_runtime::Shutdown;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::publish::{FIELD_MANAGER, REQUEST_LIMIT};

/// Time between two requests for the keys.
const FETCH_INTERVAL: Duration = Duration::from_secs(300);

/// Delay after a failed request.
const RETRY_DELAY: Duration = Duration::from_secs(15);

/// Unchanged keys are rewritten at this interval, so that readers see that they are fresh.
const REWRITE_INTERVAL: Duration = Duration::from_secs(3600);

const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
const KEYS_PATH: &str = "/openid/v1/jwks";

/// The last written keys without their time, and when they were written.
type Last = Option<(String, Instant)>;

/// The members of an OpenID Connect Discovery document that the operator keeps.
#[derive(Deserialize)]
struct DiscoveryDocument {
    issuer: String,
    id_token_signing_alg_values_supported: Option<Vec<String>>,
}

/// Keeps the keys in the ConfigMap of this name while this replica leads, until the process stops. Without a name it
/// keeps nothing.
pub(crate) async fn run(
    client: Client,
    namespace: String,
    name: Option<String>,
    mut leads: watch::Receiver<bool>,
    stop: Shutdown,
) {
    let keeping = async {
        let Some(name) = name else { return std::future::pending().await };
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
        let mut last = None;
        while leads.wait_for(|leads| *leads).await.is_ok() {
            let pause = match refresh(&client, &api, &name, &mut last).await {
                Ok(()) => FETCH_INTERVAL,
                Err(problem) => {
                    warn!(
                        configmap = name,
                        problem, "cannot keep the keys of service accounts for gateways that start"
                    );
                    RETRY_DELAY
                }
            };
            sleep(pause).await;
        }
        // The election has ended: the process is about to stop.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = keeping => {}
        () = stop.requested() => {}
    }
}

/// Fetches the keys, and writes them if they have changed or the last write is old.
async fn refresh(client: &Client, api: &Api<ConfigMap>, name: &str, last: &mut Last) -> Result<(), String> {
    let kept = fetch(client).await?;
    let timeless = KeptKeys { fetched: 0, ..kept.clone() }.to_text();
    if last.as_ref().is_some_and(|(before, at)| *before == timeless && at.elapsed() < REWRITE_INTERVAL) {
        return Ok(());
    }
    let object = ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(KEPT_KEYS_KEY.to_owned(), kept.to_text())])),
        ..ConfigMap::default()
    };
    let apply = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&object);
    let writing = timeout(REQUEST_LIMIT, api.patch(name, &apply, &patch));
    writing.await.map_err(|_| late())?.map_err(|error| error.to_string())?;
    info!(configmap = name, issuer = kept.issuer, "wrote the keys of service accounts");
    *last = Some((timeless, Instant::now()));
    Ok(())
}

async fn fetch(client: &Client) -> Result<KeptKeys, String> {
    let document = get(client, DISCOVERY_PATH).await?;
    let document: DiscoveryDocument =
        serde_json::from_slice(&document).map_err(|_| format!("{DISCOVERY_PATH} is not a discovery document"))?;
    let keys = get(client, KEYS_PATH).await?;
    let keys: Box<RawValue> = serde_json::from_slice(&keys).map_err(|_| format!("{KEYS_PATH} is not JSON"))?;
    Ok(KeptKeys {
        version: VERSION,
        fetched: Timestamp::now().as_second(),
        issuer: document.issuer,
        algorithms: document.id_token_signing_alg_values_supported,
        keys,
    })
}

async fn get(client: &Client, path: &'static str) -> Result<bytes::Bytes, String> {
    let mut request = http::Request::new(kube::client::Body::empty());
    *request.uri_mut() = http::Uri::from_static(path);
    let asking = async {
        let answer = client.send(request).await.map_err(|error| format!("{path}: {error}"))?;
        if !answer.status().is_success() {
            return Err(format!("the API server answers {path} with HTTP status {}", answer.status().as_u16()));
        }
        // Half of the ConfigMap's bound leaves room for everything but the keys.
        let body = Limited::new(answer.into_body(), MAX_BYTES / 2).collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|_| format!("the answer to {path} is incomplete, or longer than {} bytes", MAX_BYTES / 2))
    };
    timeout(REQUEST_LIMIT, asking).await.map_err(|_| late())?
}

fn late() -> String {
    "the API server did not answer in time".to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::http::{Method, StatusCode, Uri};
    use axum::response::{IntoResponse as _, Response};
    use serde_json::{Value, json};

    use super::*;

    #[derive(Default)]
    struct FakeKeySource {
        keys: Option<&'static str>,
        written: Vec<Value>,
    }

    fn api(fake: &Arc<Mutex<FakeKeySource>>) -> Client {
        let fake = Arc::clone(fake);
        let answer = move |method: Method, uri: Uri, body: axum::body::Bytes| async move {
            let mut fake = fake.lock().expect("nobody panicked");
            answer(&mut fake, &method, &uri, &body)
        };
        Client::new(Router::new().fallback(answer), "n")
    }

    fn answer(fake: &mut FakeKeySource, method: &Method, uri: &Uri, body: &[u8]) -> Response {
        let Some(keys) = fake.keys else { return (StatusCode::INTERNAL_SERVER_ERROR, "no").into_response() };
        match (method, uri.path()) {
            (&Method::GET, DISCOVERY_PATH) => {
                json!({"issuer": "https://i", "id_token_signing_alg_values_supported": ["RS256"]})
                    .to_string()
                    .into_response()
            }
            (&Method::GET, KEYS_PATH) => keys.into_response(),
            (&Method::PATCH, "/api/v1/namespaces/n/configmaps/k") => {
                let object: Value = serde_json::from_slice(body).expect("an object");
                fake.written
                    .push(serde_json::from_str(object["data"][KEPT_KEYS_KEY].as_str().expect("a text")).expect("JSON"));
                body.to_vec().into_response()
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_written_when_they_change_and_now_and_then_and_failures_are_made_good() {
        let fake = Arc::new(Mutex::new(FakeKeySource::default()));
        let client = api(&fake);
        let (leads, leading) = watch::channel(false);
        let tasks = portcullis_runtime::Supervisor::new();
        let running = run(client, "n".into(), Some("k".into()), leading, tasks.shutdown());
        let written = || -> Vec<Value> {
            fake.lock().expect("nobody panicked").written.iter().map(|kept| kept["keys"].clone()).collect()
        };
        let set = |keys| fake.lock().expect("nobody panicked").keys = keys;
        let story = async {
            set(Some(r#"{"keys":[1]}"#));
            sleep(FETCH_INTERVAL * 2).await;
            assert_eq!(written(), Vec::<Value>::new(), "another replica leads");
            leads.send_replace(true);
            sleep(FETCH_INTERVAL * 3).await;
            assert_eq!(written(), [json!({"keys": [1]})], "once");
            set(None);
            sleep(FETCH_INTERVAL * 2).await;
            set(Some(r#"{"keys":[2]}"#));
            sleep(RETRY_DELAY * 2).await;
            assert_eq!(written().len(), 2);
            sleep(REWRITE_INTERVAL + FETCH_INTERVAL * 2).await;
            assert_eq!(written(), [json!({"keys": [1]}), json!({"keys": [2]}), json!({"keys": [2]})]);
        };
        tokio::select! {
            () = running => panic!("it ended"),
            () = story => {}
        }
        let first = fake.lock().expect("nobody panicked").written[0].clone();
        assert_eq!((first["version"].as_u64(), first["issuer"].as_str()), (Some(1), Some("https://i")));
        assert_eq!(first["algorithms"], json!(["RS256"]));
    }
}
