//! The prompts, and completion for their arguments.

use rmcp::ErrorData;
use rmcp::model::{GetPromptRequestParams, GetPromptResponse, GetPromptResult, InputRequiredResult};
use serde_json::{Value, json};

use super::ask::{AskOutcome, ask, one_field};
use super::handler::Context;
use super::result;
use super::tools::PNG;

/// The values that completion offers.
const WORDS: [&str; 5] = ["paris", "park", "party", "test", "testing"];

/// All prompts; one more or one less.
pub(super) fn all(more: bool) -> Vec<Value> {
    let argument = |name: &str| json!({"name": name, "description": format!("The {name}"), "required": true});
    let mut prompts = vec![
        json!({"name": "test_simple_prompt", "description": "A text"}),
        json!({
            "name": "test_prompt_with_arguments", "description": "A text with two words in it",
            "arguments": [argument("arg1"), argument("arg2")],
        }),
        json!({
            "name": "test_prompt_with_embedded_resource", "description": "A resource and a text",
            "arguments": [argument("resourceUri")],
        }),
        json!({"name": "test_prompt_with_image", "description": "An image and a text"}),
        json!({"name": "test_input_required_result_prompt", "description": "A text that the user is asked for"}),
    ];
    if more {
        prompts.push(json!({"name": "test_coming_and_going", "description": "Is here for a while"}));
    }
    prompts
}

/// Gets a prompt.
pub(super) async fn get(get: GetPromptRequestParams, context: &Context) -> Result<GetPromptResponse, ErrorData> {
    let argument = |name: &str| {
        let value = get.arguments.as_ref().and_then(|arguments| arguments.get(name)).and_then(Value::as_str);
        value.ok_or_else(|| ErrorData::invalid_params(format!("the argument {name} is missing"), None))
    };
    let user = |content: Value| json!({"role": "user", "content": content});
    let text = |text: &str| user(json!({"type": "text", "text": text}));
    let messages = match get.name.as_str() {
        "test_simple_prompt" => json!([text("This is a simple prompt for testing.")]),
        "test_prompt_with_arguments" => {
            let (one, two) = (argument("arg1")?, argument("arg2")?);
            json!([text(&format!("Prompt with arguments: arg1='{one}', arg2='{two}'"))])
        }
        "test_prompt_with_embedded_resource" => {
            let resource = json!({
                "uri": argument("resourceUri")?, "mimeType": "text/plain",
                "text": "Embedded resource content for testing.",
            });
            let resource = user(json!({"type": "resource", "resource": resource}));
            json!([resource, text("Please process the embedded resource above.")])
        }
        "test_prompt_with_image" => {
            let image = user(json!({"type": "image", "data": PNG, "mimeType": "image/png"}));
            json!([image, text("Please analyze the image above.")])
        }
        "test_coming_and_going" => json!([text("It was asked for.")]),
        "test_input_required_result_prompt" => {
            let question = one_field("What context should the prompt use?", "context", "string");
            match ask(&vec![("user_context", question)], get.input_responses.as_ref(), context).await? {
                AskOutcome::Missing(requests) => return Ok(InputRequiredResult::new(Some(requests), None).into()),
                AskOutcome::Answered(answers) => {
                    json!([text(&format!("Prompt with context: {}", answers["user_context"]["content"]["context"]))])
                }
            }
        }
        name => return Err(ErrorData::invalid_params(format!("there is no prompt {name:?}"), None)),
    };
    Ok(result::<GetPromptResult>(json!({"messages": messages})).into())
}

/// The words that go on as this begins.
pub(super) fn complete(begun: &str) -> Vec<&'static str> {
    WORDS.into_iter().filter(|word| word.starts_with(begun)).collect()
}
