use tokio::time::timeout;

use super::*;
use crate::watch_files::{FileWatcher, GATHER, LOOK_ANYWAY};

fn manifest(name: &str, url: &str) -> String {
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: {name}}}\nspec: {{url: '{url}'}}\n"
    )
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.servers.iter().map(|server| server.name.as_str()).collect()
}

#[test]
fn a_broken_file_keeps_its_last_good_servers_and_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("a.yaml", &manifest("a", "http://a/"));
    write("b.yml", &manifest("b", "http://b/"));
    write(".hidden.yaml", "a: [");
    write("notes.txt", "a: [");
    let mut source = Folder::open(folder.path()).unwrap();
    let (snapshot, soundness) = source.read();
    assert_eq!((names(&snapshot), soundness.problems.len()), (vec!["a", "b"], 0));

    write("a.yaml", "a: [");
    write("c.yaml", &manifest("c", "http://c/"));
    let (snapshot, soundness) = source.read();
    assert_eq!((names(&snapshot), soundness.problems.len()), (vec!["a", "b", "c"], 1));
    assert!(soundness.problems[0].contains("a.yaml"), "{soundness:?}");

    std::fs::remove_file(folder.path().join("a.yaml")).unwrap();
    let (snapshot, soundness) = source.read();
    assert_eq!((names(&snapshot), soundness), (vec!["b", "c"], Soundness::default()));
}

#[test]
fn a_refused_server_is_named_and_the_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.yaml");
    let text =
        [manifest("a", "http://a/"), manifest("b", "ftp://b/"), manifest("c", "http://c/"), manifest("c", "http://d/")];
    std::fs::write(&file, text.join("---\n")).unwrap();
    let (snapshot, soundness) = Folder::open(&file).unwrap().read();
    assert_eq!(names(&snapshot), ["a"]);
    assert_eq!(
        soundness.problems,
        [
            "McpServer default/b: url has scheme \"ftp\": use http or https",
            "McpServer default/c: default/c is declared 2 times: keep one",
        ]
    );
}

#[test]
fn a_refused_change_and_an_emptied_file_leave_a_server_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("a.yaml", &manifest("a", "http://a/"));
    write("b.yaml", &manifest("b", "http://b/"));
    let mut source = Folder::open(folder.path()).unwrap();
    let (good, _) = source.read();
    for (name, text) in [
        ("a.yaml", manifest("a", "ftp://a/")),
        ("copy.yaml", manifest("b", "http://c/")),
        ("b.yaml", "# soon\n".into()),
    ] {
        write(name, &text);
        let (snapshot, soundness) = source.read();
        assert_eq!((&snapshot, !soundness.problems.is_empty()), (&good, true), "{name}: {soundness:?}");
    }
    for name in ["a.yaml", "copy.yaml", "b.yaml"] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    assert_eq!(source.read(), (Snapshot::new(vec![]), Soundness::default()));
}

#[test]
fn a_policy_that_cannot_be_read_at_the_start_closes_everything_and_one_that_breaks_later_keeps_what_it_said() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let governing = |snapshot: &Snapshot| {
        let of_server =
            |server: &Server| server.governed_by.iter().map(|policy| policy.name.clone()).collect::<Vec<_>>();
        snapshot.servers.iter().map(of_server).collect::<Vec<_>>().concat()
    };
    let policy = "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {name: p}\nspec: {}\n";
    write("a.yaml", &manifest("a", "http://a/"));
    write("notes.yaml", "a: [");
    write("p.yaml", &format!("{policy}more: ["));
    let mut source = Folder::open(folder.path()).unwrap();
    let (snapshot, soundness) = source.read();
    assert_eq!((names(&snapshot), governing(&snapshot)), (vec!["a"], vec![UNREAD.to_owned()]));
    let told = soundness.problems.iter().filter(|problem| problem.contains("nobody may use any server")).count();
    assert_eq!((told, soundness.problems.len()), (1, 3), "{soundness:?}");

    write("p.yaml", policy);
    assert_eq!(governing(&source.read().0), ["p"]);
    write("p.yaml", "a: [");
    assert_eq!(governing(&source.read().0), ["p"]);
    std::fs::remove_file(folder.path().join("p.yaml")).unwrap();
    write("q.yaml", &format!("{policy}more: ["));
    assert_eq!(governing(&source.read().0), Vec::<String>::new(), "it has never been in force");
}

fn view(name: &str, spec: &str) -> String {
    format!("apiVersion: portcullis.dev/v1alpha1\nkind: McpView\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn a_view_that_is_no_longer_valid_keeps_its_last_good_form_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let views = |snapshot: &Snapshot| -> Vec<(String, usize)> {
        snapshot.views.iter().map(|view| (view.name.clone(), view.spec.select.len())).collect()
    };
    let one = |name: &str, entries: usize| (name.to_owned(), entries);
    write(
        "a.yaml",
        &[manifest("a", "http://a/"), view("a", "{select: [{}]}"), view("b", "{select: []}")].join("---\n"),
    );
    let mut source = Folder::open(folder.path()).unwrap();
    let (snapshot, soundness) = source.read();
    assert_eq!((names(&snapshot), views(&snapshot)), (vec!["a"], vec![one("a", 1)]));
    assert_eq!(soundness.problems, ["McpView default/b: select takes 1 to 32 entries"]);

    write("a.yaml", &[manifest("a", "http://a/"), view("a", "{select: [{}, {}], serach: Never}")].join("---\n"));
    let (snapshot, soundness) = source.read();
    assert_eq!(views(&snapshot), [one("a", 1)]);
    let problem = "McpView default/a: member \"serach\" is unknown to this version: remove it, or update";
    assert_eq!(soundness.problems, [problem]);

    // Of two, neither is known to be meant.
    write("b.yaml", &view("a", "{select: [{}, {}]}"));
    let (snapshot, soundness) = source.read();
    assert_eq!(views(&snapshot), [one("a", 1)]);
    assert_eq!(soundness.problems, ["McpView default/a: it is declared 2 times: keep one"]);
    std::fs::remove_file(folder.path().join("a.yaml")).unwrap();
    let (snapshot, soundness) = source.read();
    assert_eq!((views(&snapshot), soundness), (vec![one("a", 2)], Soundness::default()));
    write("b.yaml", "apiVersion: portcullis.dev/v1alpha1\nkind: McpView\nmetadata: {}\nspec: {}\n");
    assert!(source.read().1.problems[0].ends_with("McpView: metadata.name is missing"));
    std::fs::remove_file(folder.path().join("b.yaml")).unwrap();
    assert_eq!(views(&source.read().0), []);
}

#[test]
fn labels_of_a_server_are_known_where_a_view_selects_by_them() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| std::fs::write(folder.path().join("a.yaml"), text).unwrap();
    let labelled = manifest("a", "http://a/").replace("{name: a}", "{name: a, labels: {tier: gold}}");
    let mut source = Folder::open(folder.path()).unwrap();
    let labels = |source: &mut Folder| source.read().0.servers[0].labels.clone();
    write(&[&*labelled, &view("v", "{select: [{servers: {names: [a]}}]}")].join("---\n"));
    assert_eq!(labels(&mut source), BTreeMap::new());
    write(&[&*labelled, &view("v", "{select: [{servers: {selector: {matchLabels: {tier: gold}}}}]}")].join("---\n"));
    assert_eq!(labels(&mut source), BTreeMap::from([("tier".to_owned(), "gold".to_owned())]));
}

#[test]
fn a_path_that_is_not_there_is_refused() {
    assert!(Folder::open(Path::new("/nowhere/at/all")).is_err());
}

// === noticing changes ===

/// A file of manifests that was read when it was old enough for changes to show, and is watched.
struct Watched {
    source: Folder,
    changes: FileWatcher,
}

impl Watched {
    async fn begin(path: &Path) -> Self {
        let mut source = Folder::open(path).unwrap();
        is_old_enough(&source).await;
        let changes = FileWatcher::watch(Some(path), None);
        source.read();
        assert_eq!(source.read_if_changed(), None, "nothing has changed");
        Self { source, changes }
    }

    /// Waits until this server is the only one, without the periodic scan.
    async fn has(&mut self, name: &str) {
        let seen = async {
            loop {
                self.changes.next().await;
                if self.source.read_if_changed().is_some_and(|(snapshot, _)| names(&snapshot) == [name]) {
                    return;
                }
            }
        };
        timeout(LOOK_ANYWAY * 4 / 5, seen).await.expect("it is noticed at once");
    }
}

/// Waits until the files are old enough to prove that they have not changed.
async fn is_old_enough(source: &Folder) {
    while source.files().ok().and_then(|files| stamp(&files)).is_none_or(|(_, age)| age <= TICK) {
        tokio::task::spawn_blocking(|| std::thread::sleep(GATHER)).await.unwrap();
    }
}

fn write_one(path: &Path, name: &str) {
    std::fs::write(path, manifest(name, "http://a/")).unwrap();
}

/// A folder with one file of manifests in it.
fn folder_with_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("servers.yaml");
    write_one(&file, "a");
    (folder, file)
}

#[tokio::test]
async fn a_file_that_is_written_in_place_is_read_again_even_with_its_old_length_and_time() {
    let (_folder, file) = folder_with_file();
    let time = std::fs::metadata(&file).unwrap().modified().unwrap();
    let mut watched = Watched::begin(&file).await;
    write_one(&file, "b");
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    watched.has("b").await;
}

#[tokio::test]
async fn a_file_that_another_is_renamed_to_is_read_again() {
    let (folder, file) = folder_with_file();
    let other = folder.path().join(".servers.yaml.swp");
    write_one(&other, "b");
    let mut watched = Watched::begin(&file).await;
    std::fs::rename(other, file).unwrap();
    watched.has("b").await;
}

#[tokio::test]
async fn a_file_that_is_deleted_keeps_its_servers_until_it_is_there_again() {
    let (_folder, file) = folder_with_file();
    let mut watched = Watched::begin(&file).await;
    std::fs::remove_file(&file).unwrap();
    watched.has("a").await;
    write_one(&file, "b");
    watched.has("b").await;
}

#[tokio::test]
async fn a_mounted_file_is_read_again_when_its_version_is_exchanged() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (version, name) in [("..1", "a"), ("..2", "b")] {
        std::fs::create_dir(at(version)).unwrap();
        write_one(&at(version).join("servers.yaml"), name);
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/servers.yaml", at("servers.yaml")).unwrap();
    let mut watched = Watched::begin(&at("servers.yaml")).await;
    symlink("..2", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    watched.has("b").await;
}

#[tokio::test]
async fn a_change_that_nobody_tells_of_is_found_by_the_look_every_ten_seconds() {
    let ((_elsewhere, target), folder) = (folder_with_file(), tempfile::tempdir().unwrap());
    let link = folder.path().join("servers.yaml");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let mut watched = Watched::begin(&link).await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    write_one(&target, "b");
    watched.changes.next().await;
    let read = watched.source.read_if_changed().map(|(snapshot, _)| names(&snapshot).join(" "));
    assert_eq!((read.as_deref(), began.elapsed() >= LOOK_ANYWAY), (Some("b"), true));
}

#[tokio::test]
async fn neighbours_that_grow_come_and_go_cause_no_reading() {
    let (folder, file) = folder_with_file();
    let grow = |name: &str| {
        use std::io::Write as _;
        let log = std::fs::File::options().append(true).create(true).open(folder.path().join(name));
        log.unwrap().write_all(b"a line\n").unwrap();
    };
    for path in [file.as_path(), folder.path()] {
        let mut watched = Watched::begin(path).await;
        for number in 0..20 {
            if number % 5 == 4 {
                std::fs::remove_file(folder.path().join("gateway.log")).unwrap();
            } else {
                grow("gateway.log");
            }
            timeout(LOOK_ANYWAY / 2, watched.changes.next()).await.expect("it is told");
            assert_eq!(watched.source.read_if_changed(), None, "{}", path.display());
        }
        write_one(&file, "b");
        watched.has("b").await;
    }
}

#[test]
fn changes_that_follow_at_once_are_not_taken_for_one() {
    let (_folder, file) = folder_with_file();
    let mut source = Folder::open(&file).unwrap();
    for number in 0..100 {
        let name = format!("server-{number:03}");
        write_one(&file, &name);
        let read = source.read_if_changed().map(|(snapshot, _)| names(&snapshot).join(" "));
        assert_eq!(read, Some(name));
    }
}

#[test]
fn a_file_is_read_whenever_its_time_cannot_tell_that_it_has_not_changed() {
    let (_folder, file) = folder_with_file();
    let later = SystemTime::now() + Duration::from_secs(3600);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    let mut source = Folder::open(&file).unwrap();
    source.read();
    assert!(source.read_if_changed().is_some());
}

#[tokio::test]
async fn what_could_not_be_read_is_tried_again_though_it_has_not_changed() {
    let (folder, _file) = folder_with_file();
    let mut watched = Watched::begin(folder.path()).await;
    std::fs::write(folder.path().join("b.yaml"), b"\xff").unwrap();
    watched.has("a").await;
    is_old_enough(&watched.source).await;
    for _ in 0..3 {
        let (_, soundness) = watched.source.read_if_changed().expect("it is read");
        assert_eq!(soundness.problems.len(), 1, "{soundness:?}");
    }
}

#[test]
fn one_file_beyond_the_bounds_is_named_and_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    write_one(&folder.path().join("b-good.yaml"), "good");
    let bomb = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(1_000), "*a,".repeat(1_000));
    for (name, text, problem) in [
        ("a.yaml", "{".repeat(160_000), "levels"),
        ("a.yaml", "- ".repeat(80_000), "levels"),
        ("a.json", "[".repeat(1_000_000), "line 1"),
        ("a.yaml", bomb, "aliases"),
        ("a.yaml", "- x\n".repeat(400_000), "values"),
        ("a.yaml", "é".repeat(3 * 1024 * 1024), "longer than 4194304 bytes"),
        ("z.yaml", "x".repeat(5 * 1024 * 1024), "longer than 4194304 bytes"),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let began = std::time::Instant::now();
        let (snapshot, soundness) = Folder::open(folder.path()).unwrap().read();
        assert!(began.elapsed() < Duration::from_secs(20), "{problem}: {:?}", began.elapsed());
        assert_eq!(names(&snapshot), ["good"], "{problem}");
        let [told] = &soundness.problems[..] else { panic!("{:?}", soundness.problems) };
        assert!(told.starts_with(&file.display().to_string()) && told.contains(problem), "{told}");
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn files_beyond_what_is_read_of_a_folder_keep_their_last_good_content_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    write_one(&folder.path().join("z.yaml"), "last");
    let mut source = Folder::open(folder.path()).unwrap();
    source.read();
    for n in 0..17 {
        std::fs::write(folder.path().join(format!("{n:02}.yaml")), "#".repeat(4 * 1024 * 1024)).unwrap();
    }
    let (snapshot, soundness) = source.read();
    assert_eq!(names(&snapshot), ["last"]);
    let named: Vec<bool> =
        soundness.problems.iter().map(|problem| problem.contains("more than 67108864 bytes")).collect();
    assert_eq!(named, [true, true], "{:?}", soundness.problems);
}

#[test]
fn a_folder_of_too_many_files_keeps_what_it_had_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_one(&folder.path().join("z.yaml"), "last");
    let mut source = Folder::open(folder.path()).unwrap();
    source.read();
    for n in 0..MAX_FILES {
        std::fs::File::create(folder.path().join(format!("{n}.yaml"))).unwrap();
    }
    let (snapshot, soundness) = source.read();
    let problem = format!("{} contains more than {MAX_FILES} files: remove some", folder.path().display());
    assert_eq!((names(&snapshot), soundness.problems), (vec!["last"], vec![problem]));
}

#[test]
fn a_pipe_instead_of_a_file_is_refused_rather_than_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|status| status.success()) {
        return;
    }
    let (_, soundness) = Folder::open(&pipe).unwrap().read();
    assert!(soundness.problems[0].contains("not a regular file"), "{:?}", soundness.problems);
}

#[tokio::test(start_paused = true)]
async fn a_new_server_waits_for_a_policy_where_there_are_policies() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let policy = |name: &str, server: &str| {
        format!(
            "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {{name: {name}}}\nspec: {{servers: {{names: [{server}]}}}}\n"
        )
    };
    write("a.yaml", &manifest("a", "http://a/"));
    let mut source = Folder::open(folder.path()).unwrap();
    assert_eq!(names(&source.read().0), ["a"], "the first read is whole");
    write("b.yaml", &manifest("b", "http://b/"));
    assert_eq!((names(&source.read().0), source.next_newcomer()), (vec!["a", "b"], None), "there is no policy");

    write("p.yaml", &policy("p", "nothing"));
    assert_eq!(names(&source.read().0), ["a", "b"], "known servers stay");
    let now = Instant::now();
    write("c.yaml", &manifest("c", "http://c/"));
    write("d.yaml", &manifest("d", "http://d/"));
    assert_eq!(names(&source.read().0), ["a", "b"]);
    let due = source.next_newcomer().expect("two servers wait");
    assert_eq!(due - now, std::time::Duration::from_millis(500));

    write("q.yaml", &policy("q", "c"));
    let snapshot = source.read().0;
    assert_eq!(names(&snapshot), ["a", "b", "c"], "its policy has come");
    assert_eq!(snapshot.servers[2].governed_by.len(), 1);
    tokio::time::sleep_until(due).await;
    let read = source.read_if_changed().expect("it is due, though no file has changed");
    assert_eq!((names(&read.0), source.next_newcomer()), (vec!["a", "b", "c", "d"], None));
}
