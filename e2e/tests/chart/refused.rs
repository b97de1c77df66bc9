//! Helm refuses every value that a program would refuse at start, or the API server at installation.

use std::io::Write as _;

use portcullis_e2e::cluster::{Tier, available, control_plane};
use portcullis_e2e::require;
use serde_json::{Value, json};

use crate::chart::{folder, objects, repository};
use crate::programs::{Variables, gateway, issuers, operator, variables};
use crate::settings::ValueForm::{List, Plain, Text};
use crate::settings::{ChartSetting, NAMESPACES, OF_GATEWAY, OF_KUBERNETES, OF_OPERATOR, bad_issuers, good_issuers};

fn assignment(setting: &ChartSetting, texts: &[&str]) -> String {
    let value = match setting.form {
        Text => json!(texts[0]),
        Plain => serde_json::from_str(texts[0]).expect("JSON"),
        List => json!(texts),
    };
    format!("{}={value}", setting.value)
}

/// The values of one call of Helm, and the expected place of each problem: all texts of a list, one of the others.
fn round(
    settings: &[&ChartSetting],
    texts: impl Fn(&ChartSetting) -> &'static [&'static str],
    round: usize,
) -> Vec<(String, Vec<String>)> {
    let of = |setting: &&ChartSetting| {
        let all = texts(setting);
        let pointer = format!("/{}", setting.value.replace('.', "/"));
        match setting.form {
            List if round > 0 => None,
            List => {
                Some((assignment(setting, all), (0..all.len()).map(|item| format!("at '{pointer}/{item}'")).collect()))
            }
            Text | Plain => all.get(round).map(|text| (assignment(setting, &[text]), vec![format!("at '{pointer}'")])),
        }
    };
    settings.iter().filter_map(of).collect()
}

/// As many as the setting with the most texts needs; a list needs one.
fn rounds(settings: &[&ChartSetting], texts: impl Fn(&ChartSetting) -> &'static [&'static str]) -> usize {
    let plain = settings.iter().filter(|setting| !matches!(setting.form, List));
    plain.map(|setting| texts(setting).len()).max().unwrap_or(1)
}

fn helm(assignments: &[String]) -> portcullis_e2e::cluster::ScriptOutput {
    let folder = folder();
    let mut arguments = vec!["template", "portcullis", &folder];
    arguments.extend(assignments.iter().flat_map(|assignment| ["--set-json", assignment]));
    control_plane().helm(&arguments)
}

#[test]
fn helm_refuses_what_a_program_would_refuse_when_it_starts() {
    require!(available(Tier::ControlPlane));
    let all: Vec<&ChartSetting> = OF_GATEWAY.iter().chain(&OF_OPERATOR).collect();
    for number in 0..rounds(&all, |setting| setting.bad) {
        let (assignments, pointers): (Vec<_>, Vec<_>) = round(&all, |setting| setting.bad, number).into_iter().unzip();
        let said = helm(&assignments).bad();
        for pointer in pointers.concat() {
            assert!(said.contains(&format!("{pointer}:")), "{assignments:?}: nothing {pointer}: {said}");
        }
    }
}

/// Otherwise the test above would say nothing.
#[test]
fn the_programs_refuse_these_too() {
    require!(available(Tier::ControlPlane));
    let rendered = objects(&helm(&[]).good());
    let of = |part| variables(&rendered, part, &["10.0.0.1"]);
    let with = |variables: &Variables, setting: &ChartSetting, text: &str| {
        let text = text.trim_matches('"').to_owned();
        variables.clone().into_iter().chain([(setting.variable.to_owned(), text)]).collect::<Variables>()
    };
    for setting in &OF_GATEWAY {
        for text in setting.bad {
            // A text that stands for a number or a truth is a fault of the values alone.
            let alike = *text == "\"5\"";
            assert!(alike || gateway(&with(&of("gateway"), setting, text)).is_err(), "{}={text}", setting.variable);
        }
    }
    for setting in &OF_OPERATOR {
        for text in setting.bad {
            assert!(operator(&with(&of("operator"), setting, text)).is_err(), "{}={text}", setting.variable);
        }
    }
}

#[test]
fn helm_takes_what_the_programs_take() {
    require!(available(Tier::ControlPlane));
    let all: Vec<&ChartSetting> = OF_GATEWAY.iter().chain(&OF_OPERATOR).collect();
    for number in 0..rounds(&all, |setting| setting.good) {
        let round = round(&all, |setting| setting.good, number);
        let assignments: Vec<String> = round.into_iter().map(|(assignment, _)| assignment).collect();
        let rendered = objects(&helm(&assignments).good());
        for addresses in [&["10.0.0.1"][..], &["fd00::1"], &["fd00::1", "10.0.0.1"]] {
            gateway(&variables(&rendered, "gateway", addresses))
                .unwrap_or_else(|why| panic!("{assignments:?}: {why:?}"));
            operator(&variables(&rendered, "operator", addresses))
                .unwrap_or_else(|why| panic!("{assignments:?}: {why:?}"));
        }
    }
}

/// The gateway's check of a file with these issuers.
fn told_of(list: &Value) -> Result<(), Vec<String>> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(list.to_string().as_bytes()).expect("written");
    issuers(&file.path().display().to_string())
}

#[test]
fn helm_and_the_gateway_refuse_the_same_issuers() {
    require!(available(Tier::ControlPlane));
    let good = json!(good_issuers());
    helm(&[format!("auth.issuers={good}")]).good();
    assert_eq!(told_of(&good), Ok(()));
    let bad = bad_issuers();
    let said = helm(&[format!("auth.issuers={}", json!(bad))]).bad();
    for (index, issuer) in bad.iter().enumerate() {
        assert!(told_of(&json!([issuer])).is_err(), "{issuer}");
        assert!(said.contains(&format!("at '/auth/issuers/{index}")), "{issuer}: {said}");
    }
    let twice = json!([good_issuers()[0], good_issuers()[0]]);
    assert!(told_of(&twice).is_err());
    assert!(helm(&[format!("auth.issuers={twice}")]).bad().contains("auth.issuers names an issuer twice"));
}

#[test]
fn helm_refuses_what_kubernetes_would_refuse() {
    require!(available(Tier::ControlPlane));
    let most = OF_KUBERNETES.iter().map(|(_, texts)| texts.len()).max().unwrap_or(0);
    for round in 0..most {
        let bad: Vec<(&str, &str)> =
            OF_KUBERNETES.iter().filter_map(|(value, texts)| Some((*value, *texts.get(round)?))).collect();
        // A member and the whole of it cannot both be set at once.
        for one in [true, false] {
            let bad = bad.iter().filter(|(value, _)| (*value == "gateway.podSecurityContext") == one);
            let bad: Vec<_> = bad.collect();
            if bad.is_empty() {
                continue;
            }
            let said = helm(&bad.iter().map(|(value, text)| format!("{value}={text}")).collect::<Vec<_>>()).bad();
            for (value, text) in bad {
                let pointer = format!("at '/{}", value.replace('.', "/"));
                assert!(said.contains(&pointer), "{value}={text}: {said}");
            }
        }
    }
}

/// Every namespace that a value names.
#[test]
fn helm_refuses_namespaces_that_cannot_exist() {
    require!(available(Tier::ControlPlane));
    for value in ["watch.namespaces", "credentials.namespaces"] {
        helm(&[format!("{value}={}", json!(NAMESPACES[0]))]).good();
        let said = helm(&[format!("{value}={}", json!(NAMESPACES[1]))]).bad();
        for index in 0..NAMESPACES[1].len() {
            assert!(said.contains(&format!("at '/{}/{index}'", value.replace('.', "/"))), "{said}");
        }
    }
}

/// `--set-string`, a quoted value in a file, a value from the environment of a pipeline.
#[test]
fn helm_refuses_a_number_or_a_truth_that_is_a_text() {
    require!(available(Tier::ControlPlane));
    let read = std::fs::read_to_string(repository("helm/portcullis/values.yaml")).expect("the file is there");
    let values: Value = serde_yaml::from_str(&read).expect("YAML");
    let mut plain = Vec::new();
    collect("", &values, &mut plain);
    // Either is good there.
    plain.retain(|(path, _)| !path.ends_with("maxUnavailable"));
    assert!(plain.len() > 40, "{plain:?}");
    let assignments: Vec<String> = plain.iter().map(|(path, value)| format!("{path}=\"{value}\"")).collect();
    let said = helm(&assignments).bad();
    for (path, value) in plain {
        let pointer = format!("at '/{}':", path.replace('.', "/"));
        assert!(said.contains(&pointer), "{path}=\"{value}\": {said}");
    }
}

/// Numbers and truths, with their paths.
fn collect(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(&path, value, found);
            }
        }
        Value::Number(_) | Value::Bool(_) => found.push((path.to_owned(), value.clone())),
        _ => {}
    }
}
