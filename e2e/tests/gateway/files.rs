//! The ways in which files of manifests are replaced: in place, by renaming, and as the kubelet does it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{TestGateway, options};
use portcullis_e2e::manifests::{Manifests, manifest};
use portcullis_gateway::Options;

use crate::reload::{sessions, soon, under_load};

#[tokio::test]
async fn files_replaced_by_renaming_are_seen() {
    let servers = [
        Faulty::with_tools(FaultyMode::Sse, vec![Tool::echo("a")]).await,
        Faulty::with_tools(FaultyMode::Sse, vec![Tool::echo("b")]).await,
    ];
    let manifests = Manifests::new();
    let gateway = TestGateway::start(manifests.options()).await;
    for _ in 0..2 {
        for (server, tool) in servers.iter().zip(["a", "b"]) {
            manifests.replace("one.yaml", &manifest("one", &server.url(), ""));
            soon(gateway.offers(&[tool])).await;
        }
    }
    // Several documents and kinds in one file, as kubectl takes them.
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    let both = [&manifest("a", &servers[0].url(), ""), secret, &manifest("b", &servers[1].url(), "")];
    manifests.replace("one.yaml", &both.join("---\n"));
    soon(gateway.offers(&["a", "b"])).await;
}

#[tokio::test]
async fn a_single_file_is_watched_as_well() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let manifests = Manifests::new();
    let file = manifests.servers().join("all.yaml");
    manifests.write("all.yaml", "# nothing yet\n");
    let gateway = TestGateway::start(Options { servers: Some(file), ..options() }).await;
    assert_eq!(gateway.tools().await, Vec::<String>::new());
    manifests.write("all.yaml", &manifest("one", &server.url(), ""));
    soon(gateway.offers(&["echo"])).await;
    manifests.replace("all.yaml", &manifest("one", &server.url(), "tools: {prefix: p}"));
    soon(gateway.offers(&["p__echo"])).await;
}

/// Writes a new version as the kubelet does: a folder of its own, to which the link `..data` is swapped.
fn publish(mount: &Path, version: u32, files: &[(&str, String)]) {
    let folder = mount.join(format!("..2026_{version}"));
    fs::create_dir(&folder).expect("a folder");
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("a file");
    }
    let fresh = mount.join("..data_tmp");
    symlink(folder.file_name().expect("a name"), &fresh).expect("a link");
    fs::rename(fresh, mount.join("..data")).expect("renamed");
    for (name, _) in files {
        if !mount.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), mount.join(name)).expect("a link");
        }
    }
    for entry in fs::read_dir(mount).expect("a folder").flatten() {
        let name = entry.file_name().into_string().expect("text");
        let is_old = name.starts_with("..2026_") && entry.path() != folder;
        let is_gone = !name.starts_with("..") && !files.iter().any(|(file, _)| *file == name);
        if is_old {
            fs::remove_dir_all(entry.path()).expect("removed");
        } else if is_gone {
            fs::remove_file(entry.path()).expect("removed");
        }
    }
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_when_its_link_is_swapped() {
    let tool = |name: &str| vec![Tool::text(name, name)];
    let (a, b) =
        (Faulty::with_tools(FaultyMode::Sse, tool("a")).await, Faulty::with_tools(FaultyMode::Modern, tool("b")).await);
    let manifests = Manifests::new();
    let mount = manifests.servers();
    let (file_a, file_b) = (("a.yaml", manifest("a", &a.url(), "")), ("b.yaml", manifest("b", &b.url(), "")));
    publish(&mount, 1, std::slice::from_ref(&file_a));
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.offers(&["a"]).await;
    let before = sessions(&a);
    under_load(&gateway, "a", async {
        publish(&mount, 2, &[file_a.clone(), file_b.clone()]);
        soon(gateway.offers(&["a", "b"])).await;
        publish(&mount, 3, &[file_a.clone(), ("b.yaml", manifest("b", &b.url(), "tools: {prefix: p}"))]);
        soon(gateway.offers(&["a", "p__b"])).await;
        publish(&mount, 4, std::slice::from_ref(&file_a));
        soon(gateway.offers(&["a"])).await;
    })
    .await;
    assert_eq!((sessions(&a), b.seen().discovers), (before, 1));
}
