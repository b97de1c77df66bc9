//! The flags of a program with subcommands: each subcommand offers and accepts those that it uses.
//!
//! Settings are flags of the whole program, so that they may precede or follow the subcommand. A flag that a subcommand
//! does not use is absent from its help, and is refused like an unknown one: it would have no effect. Unused variables
//! are ignored, because an environment is set for more than one program.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};

/// The command line of a program with subcommands.
pub trait Scoped: CommandFactory + FromArgMatches {
    /// Whether a subcommand of this name uses the setting of this id.
    fn uses(subcommand: &str, setting: &str) -> bool;

    /// The command line, in which each subcommand shows the settings that it uses.
    fn scoped() -> Command {
        scoped(Self::command(), Self::uses)
    }

    /// Parses the arguments of the process.
    ///
    /// # Errors
    /// The arguments are invalid, or contain a flag that the subcommand does not use.
    fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::from_arg_matches(&matches(&mut Self::scoped(), Self::uses, arguments)?)
    }
}

type Uses = fn(&str, &str) -> bool;

fn scoped(mut command: Command, uses: Uses) -> Command {
    command.build();
    let settings = settings(&command);
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names.iter().filter(|name| *name != "help") {
        command = command.mut_subcommand(name, |sub| {
            sub.mut_args(|arg| {
                let id = arg.get_id().as_str();
                let unused = settings.iter().any(|setting| setting == id) && !uses(name, id);
                if unused { arg.hide(true) } else { arg }
            })
        });
    }
    command
}

fn matches(
    command: &mut Command,
    uses: Uses,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<ArgMatches, clap::Error> {
    let matches = command.try_get_matches_from_mut(arguments)?;
    let Some((name, given)) = matches.subcommand() else { return Ok(matches) };
    let is_given = |id: &&String| given.value_source(id) == Some(ValueSource::CommandLine);
    let settings = settings(command);
    let unused = settings.iter().filter(|id| !uses(name, id)).find(is_given);
    match unused {
        None => Ok(matches),
        Some(id) => {
            let flag = command.get_arguments().find(|arg| arg.get_id() == id.as_str()).and_then(|arg| arg.get_long());
            let message = format!("unexpected argument '--{}' found: {name} does not use it", flag.unwrap_or(id));
            let name = name.to_owned();
            let sub = command.find_subcommand_mut(name).expect("it was found in the arguments");
            Err(sub.error(ErrorKind::UnknownArgument, message))
        }
    }
}

fn settings(command: &Command) -> Vec<String> {
    command.get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.get_id().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn uses(name: &str, setting: &str) -> bool {
        name == "run" || (name == "make" && setting == "key")
    }

    fn command() -> Command {
        let setting = |name: &'static str| Arg::new(name).long(name).global(true).default_value("none");
        let command = Command::new("program").arg(setting("key")).arg(setting("port"));
        let make = Command::new("make").arg(Arg::new("for").long("for"));
        scoped(command.subcommands([Command::new("run"), make, Command::new("show")]), uses)
    }

    fn parse(arguments: &str) -> Result<String, String> {
        let all = ["program"].into_iter().chain(arguments.split_whitespace()).map(OsString::from);
        let found = matches(&mut command(), uses, all).map_err(|error| error.to_string())?;
        let of = |name: &str| found.get_one::<String>(name).cloned().unwrap_or_default();
        Ok(format!("{} {} {}", found.subcommand_name().unwrap_or("-"), of("key"), of("port")))
    }

    #[test]
    fn settings_stand_before_or_after_a_subcommand_that_uses_them() {
        for (arguments, expected) in [
            ("", "- none none"),
            ("--port 1", "- none 1"),
            ("run --port 1", "run none 1"),
            ("--port 1 run --key k", "run k 1"),
            ("make --key k --for me", "make k none"),
            ("--key k make", "make k none"),
            ("show", "show none none"),
        ] {
            assert_eq!(parse(arguments).as_deref(), Ok(expected), "{arguments}");
        }
    }

    #[test]
    fn a_setting_that_a_subcommand_does_not_use_is_refused_wherever_it_stands() {
        for (arguments, flag, name) in [
            ("make --port 1", "port", "make"),
            ("--port 1 make", "port", "make"),
            ("--port=1 make --key k", "port", "make"),
            ("show --key k", "key", "show"),
            ("--key k show", "key", "show"),
        ] {
            let refused = parse(arguments).unwrap_err();
            let expected = format!("error: unexpected argument '--{flag}' found: {name} does not use it\n");
            assert!(refused.starts_with(&expected), "{arguments}: {refused}");
        }
    }

    #[test]
    fn the_help_of_a_subcommand_shows_what_it_uses() {
        let mut command = command();
        let mut help = |name: &str| command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
        let shown = |text: &str| ["--key", "--port", "--for"].map(|flag| text.contains(flag));
        assert_eq!(shown(&help("run")), [true, true, false]);
        assert_eq!(shown(&help("make")), [true, false, true]);
        assert_eq!(shown(&help("show")), [false, false, false]);
    }
}
