//! `portcullis-gateway explain`: says whether the policies of a folder let a caller use an item, and why. Connects to
//! nothing.

mod cases;
mod manifests;
mod print;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr as _;

use clap::Args;
use portcullis_access::Arguments;
use portcullis_access::caller::names_service_account;
use portcullis_access::decision::{DEFAULT_HINTS, MAX_CONDITION_ARGS};
use portcullis_crds::ServerKey;
use portcullis_crds::names::DEFAULT_NAMESPACE;
use portcullis_runtime::print::print_line;
use serde_json::Value;
use thiserror::Error;

use crate::auth::TokenSource;
use crate::catalog::PolicyDefault;
use crate::config::Options;
use crate::explain::answer::ExplainAnswer;
use crate::explain::question::{AskedItem, AssumedCaller, BadQuestion, claims};

use self::manifests::{GivenCall, PolicyFolder};

/// The limit for a file of arguments.
const MAX_ARGS_BYTES: u64 = 1024 * 1024;

/// The exit codes besides 0: it is denied, or a test failed; there is no answer.
const DENIED: u8 = 1;
const NO_ANSWER: u8 = 2;

/// The question.
#[derive(Debug, Clone, Default, Args)]
pub struct ExplainArgs {
    /// Subject (sub) of the caller, such as alice or system:serviceaccount:NAMESPACE:NAME
    #[arg(long = "as", value_name = "SUBJECT", required_unless_present = "tests")]
    subject: Option<String>,
    /// Issuer (iss) of the caller's token; absent for a service account: the cluster
    #[arg(long)]
    issuer: Option<String>,
    /// Claim of the caller's token, with a value in JSON or as plain text; may be repeated
    #[arg(long = "claim", value_name = "PATH=VALUE")]
    claims: Vec<String>,
    /// The gateway has a single source of keys, so that subjects and claims count in rules that name no issuer
    #[arg(long)]
    single_issuer: bool,
    /// The server's own name of a tool
    #[arg(long, value_name = "NAME", group = "item", required_unless_present_any = ["prompt", "resource", "tests"])]
    tool: Option<String>,
    /// The server's own name of a prompt
    #[arg(long, value_name = "NAME", group = "item")]
    prompt: Option<String>,
    /// The server's own URI of a resource
    #[arg(long, value_name = "URI", group = "item")]
    resource: Option<String>,
    /// McpServer, as NAME or NAMESPACE/NAME; absent: all of the folder
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// McpView through which the caller comes, as NAME or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    view: Option<String>,
    /// Hint that the tool declares, such as readOnly=true; may be repeated [default: what MCP assumes]
    #[arg(long = "hint", value_name = "HINT=BOOL", value_parser = parse_hint)]
    hints: Vec<(usize, bool)>,
    /// File with the arguments of the call, a JSON object of at most 1 MiB; -: the standard input
    #[arg(long, value_name = "FILE")]
    args: Option<PathBuf>,
    /// Time of the call, such as 2026-01-31T12:00:00Z [default: the current time]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    now: Option<jiff::Timestamp>,
    /// Print the answer as JSON, in the form of GET /explain
    #[arg(long)]
    json: bool,
    /// File with a table of tests (YAML); prints a line for each, and exits with code 0 only if all hold
    #[arg(long, value_name = "FILE", conflicts_with_all = ["subject", "issuer", "claims", "item", "server", "view", "hints", "args", "now", "json"])]
    tests: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
enum NoAnswer {
    /// A flag of the gateway.
    #[error("{0}")]
    Setting(String),
    /// The question makes no sense.
    #[error(transparent)]
    Question(#[from] BadQuestion),
    /// Some of the manifests cannot be used.
    #[error("the manifests cannot be used as they are:\n{}", .0.join("\n"))]
    Manifests(Vec<String>),
    /// The folder has no server of that name.
    #[error("there is no McpServer {0:?} in the manifests: use one of {1}")]
    UnknownServer(String, String),
    /// Several servers have the name.
    #[error("several namespaces have an McpServer {0:?}: write NAMESPACE/{0}")]
    AmbiguousServer(String),
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    File(String, String),
    /// The arguments are no object.
    #[error("the arguments must be one JSON object of at most 1 MiB")]
    Args,
    /// The servers do not agree.
    #[error("the servers disagree: name one with --server")]
    Disagreement,
    /// The answer cannot be written.
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
}

/// The arguments of a call.
#[derive(Clone, Debug)]
enum GivenArgs {
    Unknown,
    Unreadable,
    Known(Value),
}

/// Answers the question, or runs the tests.
pub fn main(args: &ExplainArgs, options: &Options) -> ExitCode {
    match run(args, options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(DENIED),
        Err(problem) => {
            eprintln!("portcullis-gateway: {problem}");
            ExitCode::from(NO_ANSWER)
        }
    }
}

/// Whether the caller may use the item, or all tests hold.
fn run(args: &ExplainArgs, options: &Options) -> Result<bool, NoAnswer> {
    let path = options.servers.as_deref().filter(|path| !path.as_os_str().is_empty());
    let path = path.ok_or_else(|| NoAnswer::Setting("name the folder of manifests: give --servers DIR".into()))?;
    let default = PolicyDefault::from_str(options.policy_default.as_deref().unwrap_or("Allow"))
        .map_err(|()| NoAnswer::Setting("POLICY_DEFAULT must be Allow or Deny".into()))?;
    let folder = PolicyFolder::read(path, default)?;
    if let Some(tests) = &args.tests {
        return cases::run(tests, &folder, args.single_issuer);
    }
    let subject = args.subject.clone().ok_or(BadQuestion::NoCaller)?;
    let claims = claims(args.claims.iter().map(String::as_str))?;
    let source = source_of(&subject, args.issuer.clone(), args.single_issuer);
    let caller = AssumedCaller {
        view: args.view.as_deref().map(|view| ServerKey::named(view, DEFAULT_NAMESPACE)),
        ..AssumedCaller::new(subject, source, claims)?
    };
    let item = AskedItem::of(args.tool.clone(), args.prompt.clone(), args.resource.clone())?;
    let mut hints = DEFAULT_HINTS;
    args.hints.iter().for_each(|(at, value)| hints[*at] = *value);
    let given = args.args.as_deref().map_or(Ok(GivenArgs::Unknown), read_args)?;
    let call = GivenCall { hints, args: given, now: args.now.unwrap_or_else(jiff::Timestamp::now) };
    let answer = folder.explain(&caller, &item, args.server.as_deref(), &call)?;
    if args.json {
        print_line(serde_json::to_string(&answer).unwrap_or_default())?;
    } else {
        portcullis_runtime::print::print(print::table(&answer))?;
        if let Some(hint) = single_issuer_hint(&folder, &caller, &item, args.server.as_deref(), &call, &answer) {
            print_line(hint)?;
        }
    }
    agreed(&answer)
}

/// Where the tokens of a caller come from: without an issuer, a service account is one of the cluster.
fn source_of(subject: &str, issuer: Option<String>, is_only: bool) -> TokenSource {
    TokenSource { is_cluster: issuer.is_none() && names_service_account(subject), issuer, is_only }
}

/// The one answer of all servers: it is allowed, or not.
fn agreed(answer: &ExplainAnswer) -> Result<bool, NoAnswer> {
    let allowed = answer.servers.iter().filter(|server| server.allowed).count();
    match allowed {
        0 => Ok(false),
        count if count == answer.servers.len() => Ok(true),
        _ => Err(NoAnswer::Disagreement),
    }
}

/// A hint for a caller that only a gateway with a single source of keys would let in.
fn single_issuer_hint(
    folder: &PolicyFolder,
    caller: &AssumedCaller,
    item: &AskedItem,
    server: Option<&str>,
    call: &GivenCall,
    answer: &ExplainAnswer,
) -> Option<&'static str> {
    let source = TokenSource { is_only: true, ..caller.source.clone() };
    let same = AssumedCaller { source, ..caller.clone() };
    let other = folder.explain(&same, item, server, call).ok()?;
    let count = |answer: &ExplainAnswer| answer.servers.iter().filter(|server| server.allowed).count();
    (count(&other) > count(answer)).then_some(
        "With a single source of keys more would be allowed, because rules without issuer would count: see --single-issuer",
    )
}

fn read_args(path: &Path) -> Result<GivenArgs, NoAnswer> {
    let text = read_text(path, MAX_ARGS_BYTES).map_err(|problem| match problem {
        Some(problem) => NoAnswer::File(path.display().to_string(), problem),
        None => NoAnswer::Args,
    })?;
    let value: Value = serde_json::from_str(&text).map_err(|_| NoAnswer::Args)?;
    GivenArgs::of(value, text.len())
}

impl GivenArgs {
    /// These arguments, `length` bytes of text.
    fn of(value: Value, length: usize) -> Result<Self, NoAnswer> {
        match value {
            // As in a call: conditions do not look at so much.
            Value::Object(_) if length > MAX_CONDITION_ARGS => Ok(Self::Unreadable),
            Value::Object(_) => Ok(Self::Known(value)),
            _ => Err(NoAnswer::Args),
        }
    }

    fn borrowed(&self) -> Arguments<'_> {
        match self {
            Self::Unknown => Arguments::Unknown,
            Self::Unreadable => Arguments::Unreadable,
            Self::Known(value) => Arguments::Known(value),
        }
    }
}

/// The text of a file, or of the standard input; `None`: it is longer than `limit`.
fn read_text(path: &Path, limit: u64) -> Result<String, Option<String>> {
    let unreadable = |error: std::io::Error| Some(error.kind().to_string());
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(unreadable)?)
    };
    let mut text = String::new();
    source.take(limit + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > limit { Err(None) } else { Ok(text) }
}

fn parse_hint(text: &str) -> Result<(usize, bool), String> {
    const HINTS: [&str; 4] = ["readOnly", "destructive", "idempotent", "openWorld"];
    let hint = text
        .split_once('=')
        .and_then(|(name, value)| Some((HINTS.iter().position(|hint| *hint == name)?, value.parse::<bool>().ok()?)));
    hint.ok_or_else(|| format!("a hint is one of {}, with =true or =false", HINTS.join(", ")))
}

fn parse_time(text: &str) -> Result<jiff::Timestamp, String> {
    text.parse().map_err(|_| "a time has the form 2026-01-31T12:00:00Z".to_owned())
}
