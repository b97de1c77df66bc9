//! `portcullis-gateway check`: everything that is wrong, without starting anything.

use crate::config::{Options, SourceConfig};
use crate::run_command::{key_problems, session_key_problem, told};
use crate::secrets::Secrets;
use crate::server::host_of;
use crate::source::folder::Folder;
use crate::upstream::stream::{TlsTarget, system_roots};
use portcullis_crds::Snapshot;
use url::Url;

/// Checks settings, keys, manifests and the Secrets they name.
///
/// # Errors
/// All problems, one line each.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut problems = options.check().err().unwrap_or_default();
    problems.extend(key_problems(options));
    problems.extend(options.session_keys.as_deref().and_then(session_key_problem));
    let snapshot = servers(options, &mut problems);
    let secrets = Secrets::Folder(options.secrets.clone());
    let in_cluster = options.credential_namespaces.as_deref().is_some_and(|text| !text.trim().is_empty());
    let roots = system_roots();
    // What lies in a cluster is not asked for: this starts nothing.
    for server in snapshot.servers.iter().filter(|_| !in_cluster) {
        let host = Url::parse(&server.url).as_ref().map(host_of).unwrap_or_default();
        let checked = secrets
            .resolve(server)
            .map_err(|error| error.to_string())
            .and_then(|resolved| TlsTarget::new(&host, &resolved.tls, &roots).map_err(|error| error.to_string()));
        if let Err(problem) = checked {
            problems.push(format!("McpServer {}: {problem}", server.key));
        }
    }
    if !problems.is_empty() {
        return Err(told(problems));
    }
    match options.source(&mut Vec::new()) {
        SourceConfig::ConfigMaps(maps) => println!("all is well; the {} ConfigMap(s) were not read", maps.names.len()),
        _ => println!("all is well: {} server(s)", snapshot.servers.len()),
    }
    Ok(())
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
