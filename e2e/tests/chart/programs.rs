//! Checks the settings of a rendered pod with the two programs' own checks, without starting them.

use std::collections::BTreeMap;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches};
use portcullis_gateway::auth::Authenticator;
use portcullis_gateway::cli::command as gateway;
use portcullis_gateway::config;
use portcullis_operator::command as operator;
use serde_json::Value;

/// Variables of a container, and what they are set to.
pub type Variables = BTreeMap<String, String>;

/// The variables of a part's container, for a pod with these addresses.
pub fn variables(rendered: &BTreeMap<String, Value>, part: &str, addresses: &[&str]) -> Variables {
    let container = &rendered[&format!("Deployment /portcullis-{part}")]["spec"]["template"]["spec"]["containers"][0];
    let mut variables = Variables::new();
    for variable in container["env"].as_array().expect("variables") {
        let field = variable.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str);
        let value = match field {
            Some("status.podIP") => addresses[0].to_owned(),
            Some("status.podIPs") => addresses.join(","),
            Some("metadata.namespace" | "metadata.name") => "portcullis".to_owned(),
            Some(field) => panic!("nobody knows {field}"),
            // As the kubelet does.
            None => variables.iter().fold(variable["value"].as_str().unwrap_or_default().to_owned(), expand),
        };
        variables.insert(variable["name"].as_str().expect("a name").to_owned(), value);
    }
    variables
}

fn expand(text: String, (name, value): (&String, &String)) -> String {
    text.replace(&format!("$({name})"), value)
}

/// The gateway's configuration from these variables; an error has a line for each problem.
pub fn gateway(variables: &Variables) -> Result<config::Config, Vec<String>> {
    options::<gateway::Cli>(variables).options.check()
}

/// The operator's configuration from these variables.
pub fn operator(variables: &Variables) -> Result<portcullis_operator::OperatorConfig, Vec<String>> {
    options::<operator::OperatorCli>(variables).options.check("portcullis-operator-0")
}

/// The gateway's check of this file of issuers.
pub fn issuers(file: &str) -> Result<(), Vec<String>> {
    let variables = Variables::from([("ISSUERS_FILE".to_owned(), file.to_owned())]);
    let settings = options::<gateway::Cli>(&variables).options.auth(&mut Vec::new());
    let problems = Authenticator::new(&settings).err().unwrap_or_default();
    if problems.is_empty() { Ok(()) } else { Err(problems.iter().map(ToString::to_string).collect()) }
}

/// The names of all variables that a program takes.
pub fn known<C: CommandFactory>() -> Vec<String> {
    let command = C::command();
    let names = command.get_arguments().filter_map(|argument| argument.get_env());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// Variables as flags, so that tests side by side need no environment. What a program does not know, it ignores.
fn options<C: CommandFactory + FromArgMatches>(variables: &Variables) -> C {
    let command = C::command();
    let flag = |variable: &str| {
        let of = |argument: &&clap::Arg| argument.get_env().is_some_and(|name| name == variable);
        command.get_arguments().find(of).and_then(clap::Arg::get_long).map(str::to_owned)
    };
    let flags = variables.iter().filter_map(|(name, value)| Some(format!("--{}={value}", flag(name)?)));
    let flags: Vec<String> = std::iter::once("program".to_owned()).chain(flags).collect();
    let command = command.clone().mut_args(|argument| argument.env(Resettable::Reset));
    let matches = command.try_get_matches_from(flags).expect("flags");
    C::from_arg_matches(&matches).expect("options")
}
