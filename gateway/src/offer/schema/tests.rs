use super::*;

fn results(text: &str) -> Result<String, String> {
    of_results(text).map(Cow::into_owned).map_err(|wrong| wrong.to_string())
}

fn arguments(text: &str) -> (String, Vec<String>) {
    let mended = of_arguments(text).unwrap();
    (mended.text.into_owned(), mended.without.iter().map(ToString::to_string).collect())
}

#[test]
fn what_clients_take_stays_byte_for_byte() {
    for text in [
        "{}",
        r#" { "type" : "object" , "x": 12345678901234567890123 } "#,
        r#"{"type":"object","properties":{"a":{"type":["string","null"],"pattern":"^a+$","default":null,"examples":[null]}},"required":["a"],"additionalProperties":false}"#,
        r##"{"type":"object","properties":{"n":{"$ref":"#/$defs/Node"}},"$defs":{"Node":{"type":"object","properties":{"next":{"$ref":"#/$defs/Node"},"all":{"items":{"$ref":"#"}}}}}}"##,
        r##"{"properties":{"a":{"$ref":"#/definitions/x~1y%20z"}},"definitions":{"x/y z":{"enum":[null,1,"a"]}}}"##,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"number"}],"additionalItems":false,"if":{},"then":{"not":{}},"dependencies":{"a":["b"],"c":{}}}"#,
        r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","prefixItems":[{}],"items":{},"unevaluatedProperties":false,"dependentRequired":{"a":["b"]},"patternProperties":{"^x-":{}}}"#,
        r#"{"properties":{"id":{"type":"string"},"$id":{},"type":{},"$ref":{"minimum":-1.5e3}},"x-own":{"a":true}}"#,
        r#"{"properties":{"a":{"type":"string","nullable":true,"format":"anything"}}}"#,
    ] {
        assert_eq!(results(text).as_deref(), Ok(text), "{text}");
        assert_eq!(arguments(text), (text.to_owned(), vec![]), "{text}");
    }
}

#[test]
fn what_has_an_equal_form_is_shown_in_it() {
    for (text, expected) in [
        (
            r#"{"properties":{"a":true,"b":false,"c":null,"d":[]}}"#,
            r#"{"properties":{"a":{},"b":{"not":{}},"c":{},"d":{}}}"#,
        ),
        (
            r#"{"properties":{"a":{"properties":{"b":true},"items":true,"anyOf":[true,{"type":"null"}],"additionalProperties":true}},"$defs":{"x":true}}"#,
            r#"{"properties":{"a":{"properties":{"b":{}},"items":{},"anyOf":[{},{"type":"null"}],"additionalProperties":true}},"$defs":{"x":{}}}"#,
        ),
        (
            r#"{"properties":[],"$defs":[],"required":null,"additionalProperties":null}"#,
            r#"{"properties":{},"$defs":{}}"#,
        ),
        (
            r#"{"type":["object"],"properties":{"a":{"type":"STRING"}}}"#,
            r#"{"type":"object","properties":{"a":{"type":"string"}}}"#,
        ),
        (
            r#"{"properties":{"a":{"type":["string",null,"string"],"required":true,"minLength":2.0,"title":7,"description":null}}}"#,
            r#"{"properties":{"a":{"type":["string","null"],"minLength":2}}}"#,
        ),
        (
            r#"{"properties":{"a":{"pattern":"(?P<major>[0-9]+)"}},"patternProperties":{"\\Aa\\_":true}}"#,
            r#"{"properties":{"a":{"pattern":"(?<major>[0-9]+)"}},"patternProperties":{"^a_":{}}}"#,
        ),
        (
            r#"{"$schema":"http://json-schema.org/draft-04/schema#","id":"http://a/b","properties":{"n":{"minimum":1.50,"exclusiveMinimum":true,"maximum":9,"exclusiveMaximum":false}}}"#,
            r#"{"$schema":"http://json-schema.org/draft-07/schema#","properties":{"n":{"exclusiveMinimum":1.50,"maximum":9}}}"#,
        ),
        (
            r#"{"$schema":"http://json-schema.org/draft-06/schema"}"#,
            r#"{"$schema":"http://json-schema.org/draft-07/schema#"}"#,
        ),
        (r#"{"$schema":"https://example.com/own","type":"object"}"#, r#"{"type":"object"}"#),
        (
            r##"{"$id":"https://a/b#","properties":{"x":{"$ref":"https://a/b#/$defs/y"}},"$defs":{"y":{"$anchor":"z"}}}"##,
            r##"{"properties":{"x":{"$ref":"https://a/b#/$defs/y"}},"$defs":{"y":{}}}"##,
        ),
        (
            r#"{"properties":{"a":{"nullable":true},"b":{"nullable":"yes","type":"string"}}}"#,
            r#"{"properties":{"a":{},"b":{"type":"string"}}}"#,
        ),
        (
            r#"{"allOf":[],"properties":{"a":{"format":7,"readOnly":"x","examples":1,"$async":true}}}"#,
            r#"{"properties":{"a":{}}}"#,
        ),
        (
            r#"{"properties":{"a":{"items":[{"type":"string"},true],"additionalItems":false}}}"#,
            r#"{"properties":{"a":{"prefixItems":[{"type":"string"},{}],"items":{"not":{}}}}}"#,
        ),
        (r#"{"prefixItems":null,"items":[{}]}"#, r#"{"prefixItems":[{}]}"#),
        (r#"{"required":["a","a"],"a":1,"a":2}"#, r#"{"required":["a"],"a":2}"#),
    ] {
        assert_eq!(results(text).as_deref(), Ok(expected), "{text}");
        assert_eq!(arguments(text), (expected.to_owned(), vec![]), "{text}");
    }
}

#[test]
fn what_has_none_is_told_with_its_path_and_left_out() {
    let property =
        |inside: &str| format!(r#"{{"type":"object","properties":{{"a":{inside},"b":{{"type":"string"}}}}}}"#);
    let without = r#"{"type":"object","properties":{"a":{},"b":{"type":"string"}}}"#;
    for (inside, why) in [
        (r#"{"type":"int"}"#, "type is not a type of JSON Schema"),
        (r#"{"type":7}"#, "type is not a type of JSON Schema"),
        (r#"{"pattern":"(?i)a"}"#, "pattern is not a regular expression that clients can compile (ECMAScript)"),
        (r#"{"pattern":"\ud800"}"#, "pattern is not a regular expression that clients can compile (ECMAScript)"),
        (
            r#"{"patternProperties":{"[":{}}}"#,
            "patternProperties has a name that is not a regular expression that clients can compile (ECMAScript)",
        ),
        (r#"{"enum":[]}"#, "enum is not a list of at least one value"),
        (r#"{"enum":"a"}"#, "enum is not a list of at least one value"),
        (r#"{"items":[{}],"prefixItems":[{}]}"#, "items is a list of schemas beside prefixItems"),
        (r#"{"minimum":"1"}"#, "minimum is not a number"),
        (r#"{"multipleOf":0}"#, "multipleOf is not a number above 0"),
        (r#"{"maxLength":-1}"#, "maxLength is not a whole number of at least 0"),
        (r#"{"maxLength":1.5}"#, "maxLength is not a whole number of at least 0"),
        (r#"{"uniqueItems":"yes"}"#, "uniqueItems is neither true nor false"),
        (r#"{"required":"b"}"#, "required is not a list of names"),
        (r#"{"required":[7]}"#, "required is not a list of names"),
        (
            r#"{"properties":{"c":{"items":{"anyOf":[{"type":"string"},{"type":"any"}]}}}}"#,
            "properties.c.items.anyOf.1.type is not a type of JSON Schema",
        ),
        (r#"{"anyOf":[null]}"#, "anyOf.0 is not a schema"),
        (r#"{"anyOf":{}}"#, "anyOf is not a list of schemas"),
        (r#"{"not":"x"}"#, "not is not a schema"),
        (r#"{"properties":"x"}"#, "properties is not an object"),
        (r##"{"$ref":"#/$defs/none"}"##, "$ref refers to something that is not in the schema"),
        (r##"{"$ref":"#/components/schemas/x"}"##, "$ref refers to something that is not in the schema"),
        (r##"{"$ref":"https://example.com/x.json"}"##, "$ref refers to something that is not in the schema"),
        (r##"{"$ref":"#name"}"##, "$ref refers to something that is not in the schema"),
        (r##"{"$ref":"#/properties/a"}"##, "$ref refers to something that is not in the schema"),
        (r##"{"$ref":"#/properties"}"##, "$ref refers to something that is not in the schema"),
        (r#"{"$ref":7}"#, "$ref is not a string"),
        (r##"{"$dynamicRef":"#x"}"##, "$dynamicRef is a reference that few clients resolve"),
        (r#"{"x-own":{"$id":"y"}}"#, "x-own.$id looks to clients like the identifier of a schema"),
        ("7", "is not a schema"),
        (r#"["x"]"#, "is not a schema"),
    ] {
        let text = property(inside);
        let dot = if why.starts_with("is not a schema") { " " } else { "." };
        let why = format!("properties.a{dot}{why}");
        assert_eq!(results(&text), Err(why.clone()), "{text}");
        assert_eq!(arguments(&text), (without.to_owned(), vec![why]), "{text}");
    }
}

#[test]
fn what_refers_to_what_was_left_out_still_leads_somewhere_or_is_left_out_too() {
    let text = r##"{"properties":{"a":{"$ref":"#/$defs/x"},"b":{"$ref":"#/$defs/x/items"}},"$defs":{"x":{"description":"d","items":{},"type":"x"}}}"##;
    let expected = r##"{"properties":{"a":{"$ref":"#/$defs/x"},"b":{}},"$defs":{"x":{"description":"d"}}}"##;
    let told = [
        "$defs.x.type is not a type of JSON Schema",
        "properties.b.$ref refers to something that is not in the schema",
    ];
    assert_eq!(arguments(text), (expected.to_owned(), told.map(str::to_owned).to_vec()));
    // A part without a name is removed.
    let text = r#"{"type":"object","anyOf":[{"required":7}],"oneOf":[{"required":["a"]}]}"#;
    let expected = r#"{"type":"object","oneOf":[{"required":["a"]}]}"#;
    assert_eq!(arguments(text), (expected.to_owned(), vec!["anyOf.0.required is not a list of names".to_owned()]));
}

#[test]
fn references_within_what_has_an_identifier_of_its_own_are_refused() {
    let text = r##"{"properties":{"a":{"$id":"http://a/b","$ref":"#/$defs/y"}},"$defs":{"y":{}}}"##;
    assert!(results(text).is_err());
    assert!(results(r#"{"properties":{"a":{"$id":"http://a/b"}}}"#).is_ok());
    // Compilers that pass such a member while they resolve a reference read it as an identifier.
    assert!(results(r##"{"properties":{"a":{"$ref":"#/$defs/x"}},"$defs":{"x":{},"$id":{}}}"##).is_err());
}

#[test]
fn a_schema_that_is_endless_costs_no_more_than_a_look() {
    let wide = |count: usize, one: fn(usize) -> String| (0..count).map(one).collect::<Vec<_>>().join(",");
    let deep = |levels: usize| r#"{"not":"#.repeat(levels) + "{}" + &"}".repeat(levels);
    for text in [
        format!(r#"{{"x":[{}]}}"#, wide(1_000_000, |n| n.to_string())),
        format!(r#"{{"properties":{{{}}}}}"#, wide(100_000, |n| format!(r#""p{n}":{{}}"#))),
        deep(10_000),
        "[".repeat(1_000_000),
        r#"{"properties":{"a":{}}"#.to_owned(),
        "[]".to_owned(),
    ] {
        assert!(of_results(&text).is_err() && of_arguments(&text).is_err(), "{}", &text[..20]);
    }
    // References that each look through a wide object, that lead in a circle, and that grow by themselves.
    let references = format!(
        r##"{{"properties":{{{}}},"$defs":{{{}}}}}"##,
        wide(6_000, |n| format!(r##""p{n}":{{"$ref":"#/$defs/d5999"}}"##)),
        wide(6_000, |n| format!(r#""d{n}":{{}}"#))
    );
    let began = std::time::Instant::now();
    let _ = (of_results(&references), of_arguments(&references));
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    let circle = r##"{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##;
    assert!(results(circle).is_err());
    assert_eq!(arguments(circle).0, r#"{"$defs":{"a":{},"b":{}}}"#);
}

proptest::proptest! {
    #[test]
    fn what_is_mended_needs_no_mending_again(text in schema(3)) {
        if let Ok(Mended { text, .. }) = of_arguments(&text) {
            let again = of_arguments(&text).unwrap();
            proptest::prop_assert_eq!((&*again.text, again.without.len()), (&*text, 0));
        }
        if let Ok(mended) = of_results(&text) {
            let again = of_results(&mended);
            proptest::prop_assert_eq!(again.as_deref(), Ok(&*mended));
        }
    }

    #[test]
    fn what_is_mended_conforms_to_the_meta_schema(text in schema(3)) {
        if let Ok(mended) = of_arguments(&text) {
            proptest::prop_assert_eq!(conforms(&mended.text), Ok(()));
        }
        if let Ok(mended) = of_results(&text) {
            proptest::prop_assert_eq!(conforms(&mended), Ok(()));
        }
    }
}

/// Whether a library finds that a schema conforms to the meta-schema of its dialect, 2020-12 if it names none.
fn conforms(schema: &str) -> Result<(), String> {
    let schema = serde_json::from_str(schema).map_err(|error| error.to_string())?;
    jsonschema::meta::validate(&schema).map_err(|error| format!("{}: {error}", error.instance_path()))
}

fn schema(levels: u32) -> proptest::strategy::BoxedStrategy<String> {
    use proptest::prelude::*;
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("7".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just(r#""string""#.to_owned()),
        Just(r##""#/$defs/a""##.to_owned()),
        Just(r#"["a","a"]"#.to_owned()),
        Just(r#""(?P<a>x)""#.to_owned()),
        Just(r#""http://json-schema.org/draft-07/schema#""#.to_owned()),
    ];
    let value = if levels == 0 { value.boxed() } else { prop_oneof![value, schema(levels - 1)].boxed() };
    let named = value.clone().prop_map(|value| format!(r#"{{"a":{value}}}"#));
    let list = value.clone().prop_map(|value| format!("[{value}]"));
    let key = proptest::sample::select(vec![
        "properties",
        "$defs",
        "items",
        "anyOf",
        "not",
        "pattern",
        "required",
        "minimum",
        "exclusiveMinimum",
        "enum",
        "nullable",
        "$ref",
        "$id",
        "$schema",
        "additionalItems",
        "prefixItems",
        "dependentRequired",
        "dependencies",
        "minLength",
        "uniqueItems",
        "type",
        "format",
        "examples",
        "additionalProperties",
        "patternProperties",
        "title",
        "x",
    ]);
    proptest::collection::vec((key, prop_oneof![value, named, list]), 0..4)
        .prop_map(|members| {
            let members: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        })
        .boxed()
}
