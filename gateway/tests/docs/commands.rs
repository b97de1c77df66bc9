//! Every `portcullis-gateway` command that the README and the pages show is one that the command line takes.

use std::ffi::OsString;
use std::fs;

use portcullis_gateway::cli::command::Cli;
use portcullis_runtime::flags::Scoped as _;

use super::generated::repository;

/// How a page starts the gateway that it has just built.
const FROM_SOURCE: &str = "cargo run -p portcullis-gateway -- ";

/// The commands in a page's shell blocks, and in its text where they hold no placeholder such as SHELL.
fn commands_of(page: &str) -> Vec<String> {
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next()).map(str::to_owned);
    let spans = page.split('`').skip(1).step_by(2).filter(|span| span.starts_with("portcullis-gateway "));
    let placeholder =
        |span: &&str| span.split(' ').any(|word| word.len() > 1 && word.chars().all(|c| c.is_uppercase()));
    let spans = spans.filter(|span| !placeholder(span)).map(|span| span.replace('\n', " "));
    blocks.chain(spans).flat_map(|text| commands_in(&text)).collect()
}

/// The commands in shell text, each to its end.
fn commands_in(text: &str) -> Vec<String> {
    let text = text.replace(FROM_SOURCE, "portcullis-gateway ").replace("\\\n", " ");
    let lines = text.lines().filter_map(|line| {
        let at = line.find("portcullis-gateway")?;
        let begins = line[..at].is_empty() || line[..at].ends_with("$(");
        begins.then(|| line[at..].split([')', '#', '|', '>', '&', ';']).next().unwrap_or_default().trim().to_owned())
    });
    lines.collect()
}

#[test]
fn every_command_of_the_gateway_in_the_pages_is_understood() {
    let pages = fs::read_dir(repository().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|it| it == "md"));
    let others = ["README.md", "CONTRIBUTING.md", "helm/portcullis/README.md"].map(|name| repository().join(name));
    let (mut count, mut faults) = (0, Vec::new());
    for path in pages.chain(others) {
        for command in commands_of(&fs::read_to_string(&path).unwrap()) {
            count += 1;
            if let Err(error) = Cli::read(command.split_whitespace().map(OsString::from)) {
                faults.push(format!("{}: {command}: {error}", path.display()));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
    assert!(count >= 8, "only {count} commands");
}

#[test]
fn a_command_that_does_not_exist_would_be_noticed() {
    let page = "```sh\nexport A=$(portcullis-gateway token --nobody x)   # why\n```\n`portcullis-gateway man` `portcullis-gateway x SHELL`\n";
    assert_eq!(commands_of(page), ["portcullis-gateway token --nobody x", "portcullis-gateway man"]);
    assert!(Cli::read(["portcullis-gateway", "token", "--nobody", "x"].map(OsString::from)).is_err());
}
