//! `GET /explain`: for callers about themselves; on a separate admin port about anybody.

use std::sync::Arc;

use axum::extract::{RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::{StatusCode, header};
use portcullis_access::caller::names_service_account;
use portcullis_runtime::admin::Turns;
use portcullis_runtime::memory::account;

use crate::explain::explainer::{Asker, NotExplained};
use crate::explain::question::{AskedItem, AskedPlace, AssumedCaller, BadQuestion, Parameters, claims};
use crate::front::http::error::{ApiError, clip};
use crate::front::request::app::App;
use crate::front::request::identify::identify_with;
use crate::front::request::observe::{Recorder, taken_apart};
use crate::front::rest::routes::json;
use crate::offer::item::Kind;

/// The path, here and on the admin port.
pub(crate) const PATH: &str = "/explain";

/// Parameters that name somebody else.
const OTHERS: [&str; 3] = ["as", "issuer", "claim"];

/// Answers callers.
pub(crate) async fn answer(request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    of_oneself(&recorder).await.unwrap_or_else(IntoResponse::into_response)
}

async fn of_oneself(recorder: &Recorder) -> Result<Response, ApiError> {
    let app = recorder.app();
    let identity = identify_with(recorder, app.options.allow_query_token, None).await?;
    let parameters = Parameters::of(recorder.head().query());
    if OTHERS.iter().any(|name| parameters.all(name).next().is_some()) {
        return Err(ApiError::Question(BadQuestion::OneselfOnly));
    }
    let item = parameters.item().map_err(ApiError::Question)?;
    let place = parameters.place().map_err(ApiError::Question)?;
    let answer = app.explainer.explain(Asker::Bearer(identity), item.clone(), place).await;
    answer.map(|body| json(account().kept(body))).map_err(|why| refusal(why, &item))
}

fn refusal(why: NotExplained, item: &AskedItem) -> ApiError {
    match (why, item.kind) {
        (NotExplained::UnknownServer(name), _) => ApiError::UnknownServer(clip(&name)),
        (NotExplained::UnknownView(name), _) => ApiError::UnknownView(clip(&name)),
        (NotExplained::UnknownItem, Kind::Tools) => ApiError::UnknownTool(clip(&item.name)),
        (NotExplained::UnknownItem, kind) => ApiError::UnknownItem(kind.word(), clip(&item.name)),
        (NotExplained::Incomplete, kind) => ApiError::NotYetKnown(kind.word(), clip(&item.name)),
        (NotExplained::Busy, _) => ApiError::TooManyExplanations,
        (NotExplained::Failed, _) => ApiError::Internal,
    }
}

/// The state of the admin port's route.
#[derive(Clone)]
struct AdminExplain {
    app: Arc<App>,
    turns: Turns,
}

/// The route of the admin port. Errors are plain text there.
pub(crate) fn admin_route<S: Clone + Send + Sync + 'static>(app: Arc<App>, turns: Turns) -> MethodRouter<S> {
    get(of_anybody).with_state(AdminExplain { app, turns })
}

async fn of_anybody(State(AdminExplain { app, turns }): State<AdminExplain>, RawQuery(query): RawQuery) -> Response {
    let parameters = Parameters::of(query.as_deref());
    let asked = question(&app, &parameters).map_err(ApiError::Question);
    let (caller, item, place) = match asked {
        Ok(asked) => asked,
        Err(error) => return plain(&error),
    };
    let Some(turn) = turns.take().await else { return Turns::refusal() };
    match app.explainer.explain(Asker::Assumed(caller), item.clone(), place).await {
        Ok(body) => turn.answer("application/json", body),
        Err(why) => plain(&refusal(why, &item)),
    }
}

fn question(app: &App, parameters: &Parameters) -> Result<(AssumedCaller, AskedItem, AskedPlace), BadQuestion> {
    let subject = parameters.one("as")?.filter(|subject| !subject.is_empty()).ok_or(BadQuestion::NoCaller)?;
    let issuer = parameters.one("issuer")?;
    let source = app.auth.source_of(names_service_account(&subject), issuer.as_deref());
    let caller = AssumedCaller::new(subject, source, claims(parameters.all("claim"))?)?;
    Ok((caller, parameters.item()?, parameters.place()?))
}

fn plain(error: &ApiError) -> Response {
    let retry = (error.status() == StatusCode::SERVICE_UNAVAILABLE).then_some([(header::RETRY_AFTER, "1")]);
    (error.status(), retry, format!("{error}\n")).into_response()
}
