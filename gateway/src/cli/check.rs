//! `portcullis-gateway check`: reports all problems without starting anything.

use crate::cli::run::{certificate_problem, key_file_problems, key_problems, told};
use crate::config::Options;
use crate::credentials::Credentials;
use crate::identity::{AudienceRules, Tokens};
use crate::key_file::KeyFile;
use crate::outbound::{Endpoints, Outbound, TokenClient};
use crate::secrets::Secrets;
use crate::source::SourceConfig;
use crate::source::folder::Folder;
use crate::telemetry::metrics::Metrics;
use portcullis_crds::{Reason, Snapshot};
use portcullis_mcp::http1::dial::host_of;
use portcullis_mcp::http1::stream::{TlsTarget, system_roots};
use portcullis_runtime::print::print_line;
use std::sync::Arc;
use url::Url;

/// Checks settings, keys, manifests and the Secrets they name.
///
/// # Errors
/// All problems, one line each.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut problems = options.check().err().unwrap_or_default();
    problems.extend(key_problems(options));
    problems.extend(key_file_problems(options));
    problems.extend(certificate_problem(options));
    let snapshot = servers(options, &mut problems);
    let identity = options.identity(&mut Vec::new());
    let rules = AudienceRules { allowed: identity.allowed, ..AudienceRules::default() };
    let tokens = Arc::new(Tokens::new(identity.account.is_some(), rules));
    let secrets = Secrets::Folder(options.secrets.clone());
    let outbound = outbound(options, &secrets, &tokens);
    let credentials = Credentials { secrets, tokens, outbound };
    let in_cluster = options.credential_namespaces.as_deref().is_some_and(|text| !text.trim().is_empty());
    let roots = system_roots();
    // Does not query a cluster: the check starts nothing.
    for server in snapshot.servers.iter().filter(|_| !in_cluster) {
        let host = Url::parse(&server.url).as_ref().map(host_of).unwrap_or_default();
        let checked = match credentials.resolve(server) {
            Ok(resolved) => TlsTarget::new(&host, &resolved.tls, &roots).map(drop).map_err(|error| error.to_string()),
            // Its token would be requested.
            Err(error) if error.reason() == Reason::Probing => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(problem) = checked {
            problems.push(format!("McpServer {}: {problem}", server.key));
        }
    }
    if !problems.is_empty() {
        return Err(told(problems));
    }
    match options.source(&mut Vec::new()) {
        SourceConfig::ConfigMaps(maps) => {
            print_line(format!("all is well; the {} ConfigMap(s) were not read", maps.names.len()))
        }
        _ => print_line(format!("all is well: {} server(s)", snapshot.servers.len())),
    }
    .map_err(Into::into)
}

/// What servers would be shown of callers.
fn outbound(options: &Options, secrets: &Secrets, tokens: &Arc<Tokens>) -> Arc<Outbound> {
    let config = options.outbound(&mut Vec::new());
    let keys = config.assertion_keys.as_deref().and_then(|path| KeyFile::open(path).ok());
    let endpoints = Endpoints {
        client: TokenClient::new(Arc::default()),
        secrets: secrets.clone(),
        own_tokens: tokens.clone(),
        token_urls: config.token_urls,
        metrics: Metrics::new(),
    };
    Arc::new(Outbound::new(config.issuer, keys.map(|(_, keys)| keys), endpoints))
}

fn servers(options: &Options, problems: &mut Vec<String>) -> Snapshot {
    match options.source(&mut Vec::new()) {
        SourceConfig::Urls(servers) => Snapshot::new(servers),
        SourceConfig::ConfigMaps(_) => Snapshot::default(),
        SourceConfig::Path(path) => match Folder::open(&path) {
            Ok(mut folder) => {
                let (snapshot, soundness) = folder.read();
                problems.extend(soundness.problems);
                snapshot
            }
            Err(problem) => {
                problems.push(problem);
                Snapshot::default()
            }
        },
    }
}
