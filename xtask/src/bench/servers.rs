//! Many servers: their manifests, and waiting until all are connected.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use super::http;
use super::stage::{Server, Stage};

/// For a thousand to be connected.
const PATIENCE: Duration = Duration::from_secs(60);

/// Servers at consecutive ports of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Servers {
    /// Of the first one.
    pub first_port: u16,
    /// How many.
    pub count: u16,
}

/// Writes their manifests into a folder, and gives its path.
pub fn manifests(stage: &Stage, servers: Servers) -> anyhow::Result<String> {
    // In a folder of their own: it is watched, and elsewhere logs are written all the time.
    let folder = stage.folder.path().join(format!("servers-{}", servers.first_port));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("servers.yaml"), text(servers))?;
    Ok(folder.display().to_string())
}

fn text(Servers { first_port, count }: Servers) -> String {
    (0..count).fold(String::new(), |mut text, index| {
        write!(
            text,
            "---\napiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: server-{index}}}\n\
             spec: {{url: \"http://127.0.0.1:{}/mcp\"}}\n",
            first_port + index
        )
        .expect("a string takes all");
        text
    })
}

/// Waits until a gateway is connected with so many.
pub fn connected(stage: &Stage, gateway: &mut Server, count: u16) -> anyhow::Result<()> {
    let port = gateway.port;
    let look = || http::get(port, "/metrics", &stage.token).is_ok_and(|(_, body)| up(&body) >= usize::from(count));
    gateway.process.until("connected with all servers", PATIENCE, look).map(drop)
}

/// How many servers are connected, in the text of the metrics.
fn up(metrics: &[u8]) -> usize {
    let text = String::from_utf8_lossy(metrics);
    text.lines().filter(|line| line.starts_with("portcullis_server_up{") && line.ends_with(" 1")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_a_manifest_with_a_port_of_its_own() {
        let wanted = "\
---
apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata: {name: server-0}
spec: {url: \"http://127.0.0.1:7000/mcp\"}
---
apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata: {name: server-1}
spec: {url: \"http://127.0.0.1:7001/mcp\"}
";
        assert_eq!(text(Servers { first_port: 7000, count: 2 }), wanted);
    }

    #[test]
    fn servers_that_are_up_are_counted() {
        let metrics = "# HELP portcullis_server_up x\nportcullis_server_up{server=\"a\"} 1\n\
                       portcullis_server_up{server=\"b\"} 0\nportcullis_server_up{server=\"c\"} 1\nother 1\n";
        assert_eq!(up(metrics.as_bytes()), 2);
    }
}
