//! The OpenAPI document against a running gateway: schemathesis makes requests of it and judges the answers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::real::{RealServerKind, available};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{http, require, token};
use portcullis_gateway::{Gateway, Options};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use xtask::real_servers;

/// It takes ten seconds on a machine that does nothing else.
const LIMIT: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_as_the_openapi_document_says() {
    require!(available(RealServerKind::PythonStreamable));
    // The document's example calls `greet`: an echo takes whatever arguments are invented for it.
    let tools = || vec![Tool::echo("greet"), Tool::echo("echo")];
    let legacy = Faulty::with_tools(FaultyMode::Sse, tools()).await;
    let modern = Faulty::with_tools(FaultyMode::Streamable, tools()).await;
    let gateway = start(&[legacy.url(), modern.url()]).await;
    let origin = format!("http://{}", gateway.address);
    wait_for("both servers to be connected", Duration::from_secs(20), async || {
        let health = http::get(&format!("{origin}/health")).send().await.map_err(|error| error.to_string())?;
        if health.json()["servers"]["connected"] == 2 { Ok(()) } else { Err(health.text().to_owned()) }
    })
    .await;

    let (status, output) = tokio::task::spawn_blocking(move || schemathesis(&origin)).await.unwrap();

    assert!(status.success(), "{output}");
    assert!(legacy.seen().calls + modern.seen().calls > 10, "no call came through:\n{output}");
    gateway.stop().await;
}

// === the gateway ===

struct RunningGateway {
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

async fn start(urls: &[String]) -> RunningGateway {
    let options = Options {
        mcp_urls: Some(urls.join(",")),
        host: Some("127.0.0.1".into()),
        port: Some("0".into()),
        jwt_secret: Some(token::SECRET.into()),
        grace_seconds: Some("2".into()),
        ..Options::default()
    };
    let gateway = Gateway::bind(options.check().unwrap(), None).await.unwrap();
    let address = gateway.address();
    let (stop, stopped) = oneshot::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { gateway.run(async move { drop(stopped.await) }).await.unwrap() });
    RunningGateway { address, stop, tasks }
}

impl RunningGateway {
    async fn stop(mut self) {
        let _ = self.stop.send(());
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

// === schemathesis ===

/// Runs it to its end and gives back all it wrote.
fn schemathesis(origin: &str) -> (ExitStatus, String) {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi/schemathesis.toml");
    let folder = tempfile::tempdir().unwrap();
    let mut written = tempfile::tempfile().unwrap();
    let mut command = Command::new(real_servers::folder().join("venv/bin/schemathesis"));
    command.arg("--config-file").arg(config).args(["run", "--checks", "all"]).arg(format!("{origin}/openapi.json"));
    command.env("PORTCULLIS_TOKEN", token::mint("schemathesis")).env("NO_COLOR", "1").current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(written.try_clone().unwrap()).stderr(written.try_clone().unwrap());
    let status = ended(command.spawn().unwrap());
    let mut output = String::new();
    written.rewind().unwrap();
    File::read_to_string(&mut written, &mut output).unwrap();
    (status, output)
}

fn ended(mut child: Child) -> ExitStatus {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            return child.wait().unwrap();
        }
        sleep(Duration::from_millis(50));
    }
}
