//! `--tests FILE`: a table of callers, items and expected answers.

use std::path::Path;

use portcullis_access::decision::DEFAULT_HINTS;
use portcullis_crds::ServerKey;
use portcullis_crds::names::DEFAULT_NAMESPACE;
use portcullis_crds::rules::without_values;
use portcullis_crds::yaml;
use portcullis_runtime::print::print_line;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::manifests::{GivenCall, PolicyFolder};
use super::{GivenArgs, NoAnswer, agreed, parse_time, read_text, source_of};
use crate::explain::answer::{ExplainAnswer, ExplainedServer, RuleName};
use crate::explain::question::{AskedItem, AssumedCaller};

/// The limits for a file of tests: its bytes, and its tests.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
const MAX_TESTS: usize = 10_000;

/// One test.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PolicyTest {
    name: Option<String>,
    #[serde(rename = "as")]
    subject: String,
    issuer: Option<String>,
    #[serde(default)]
    claims: Map<String, Value>,
    server: Option<String>,
    view: Option<String>,
    tool: Option<String>,
    prompt: Option<String>,
    resource: Option<String>,
    #[serde(default)]
    hints: TestHints,
    args: Option<Value>,
    now: Option<String>,
    expect: Expected,
    rule: Option<String>,
}

/// The hints that a tool declares.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TestHints {
    read_only: Option<bool>,
    destructive: Option<bool>,
    idempotent: Option<bool>,
    open_world: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allowed,
    Denied,
}

/// Runs the tests of a file and prints a line for each: whether all hold.
pub(super) fn run(path: &Path, folder: &PolicyFolder, single_issuer: bool) -> Result<bool, NoAnswer> {
    let tests = read(path)?;
    let mut failed = 0;
    for (at, test) in tests.iter().enumerate() {
        let name = test.name.clone().unwrap_or_else(|| test.described(at));
        match test.run(folder, single_issuer) {
            Ok(()) => print_line(format!("ok      {name}"))?,
            Err(why) => {
                failed += 1;
                print_line(format!("FAILED  {name}: {why}"))?;
            }
        }
    }
    print_line(format!("{} test(s), {failed} failed", tests.len()))?;
    Ok(failed == 0)
}

fn read(path: &Path) -> Result<Vec<PolicyTest>, NoAnswer> {
    let problem = |problem: String| NoAnswer::File(path.display().to_string(), problem);
    let text = read_text(path, MAX_FILE_BYTES)
        .map_err(|error| problem(error.unwrap_or_else(|| format!("it is longer than {MAX_FILE_BYTES} bytes"))))?;
    yaml::check(&text).map_err(|error| problem(without_values(&error)))?;
    let tests: Vec<PolicyTest> = serde_yaml::from_str(&text).map_err(|error| problem(error.to_string()))?;
    match tests.len() {
        0 => Err(problem("it holds no test".into())),
        1..=MAX_TESTS => Ok(tests),
        _ => Err(problem(format!("it holds more than {MAX_TESTS} tests: split it"))),
    }
}

impl PolicyTest {
    fn described(&self, at: usize) -> String {
        let item = [("tool", &self.tool), ("prompt", &self.prompt), ("resource", &self.resource)];
        let item = item.into_iter().find_map(|(kind, name)| Some(format!(", {kind} {}", name.as_ref()?)));
        format!("test {}: {}{}", at + 1, self.subject, item.unwrap_or_default())
    }

    /// # Errors
    /// Why the test fails.
    fn run(&self, folder: &PolicyFolder, single_issuer: bool) -> Result<(), String> {
        let answer = self.explained(folder, single_issuer).map_err(|problem| problem.to_string())?;
        if let Some(server) = answer.servers.iter().find(|server| server.depends_on_arguments) {
            return Err(format!("{}, and the test has no args ({})", server.reason, server.server));
        }
        let allowed = agreed(&answer).map_err(|problem| problem.to_string().replace("--server", "server"))?;
        for server in &answer.servers {
            if allowed != (self.expect == Expected::Allowed) {
                let expected = if self.expect == Expected::Allowed { "allowed" } else { "denied" };
                return Err(format!("expected {expected}, but {} ({})", server.reason, server.server));
            }
            self.check_rule(server)?;
        }
        Ok(())
    }

    fn explained(&self, folder: &PolicyFolder, single_issuer: bool) -> Result<ExplainAnswer, NoAnswer> {
        let source = source_of(&self.subject, self.issuer.clone(), single_issuer);
        let caller = AssumedCaller::new(self.subject.clone(), source, self.claims.clone())?;
        let caller = AssumedCaller {
            view: self.view.as_deref().map(|view| ServerKey::named(view, DEFAULT_NAMESPACE)),
            ..caller
        };
        let item = AskedItem::of(self.tool.clone(), self.prompt.clone(), self.resource.clone())?;
        let TestHints { read_only, destructive, idempotent, open_world } = self.hints;
        let given = [read_only, destructive, idempotent, open_world];
        let now = self.now.as_deref().map(parse_time).transpose().map_err(NoAnswer::Setting)?;
        let args = self.args.as_ref().map(|args| GivenArgs::of(args.clone(), args.to_string().len())).transpose()?;
        let call = GivenCall {
            hints: std::array::from_fn(|at| given[at].unwrap_or(DEFAULT_HINTS[at])),
            args: args.unwrap_or(GivenArgs::Unknown),
            now: now.unwrap_or_else(jiff::Timestamp::now),
        };
        folder.explain(&caller, &item, self.server.as_deref(), &call)
    }

    /// Whether the rule that decides is the expected one: RULE, POLICY/RULE or NAMESPACE/POLICY/RULE.
    fn check_rule(&self, server: &ExplainedServer) -> Result<(), String> {
        let Some(wanted) = self.rule.as_deref() else { return Ok(()) };
        let found = server.by.as_ref().or(server.denied_by.as_ref());
        let is_it = |RuleName { policy, rule }: &RuleName| {
            let whole = format!("{policy}/{rule}");
            whole == wanted || whole.ends_with(&format!("/{wanted}"))
        };
        match found {
            Some(rule) if is_it(rule) => Ok(()),
            _ => Err(format!("expected rule {wanted}, but {} ({})", server.reason, server.server)),
        }
    }
}
