//! Checks the token of a request and notes whose it is.

use std::sync::Arc;

use crate::auth::{AuthError, Identity, TokenCheck};
use crate::front::http::error::ApiError;
use crate::front::http::resource_metadata::Resource;
use crate::front::request::observe::{Recorder, record};

/// The identity of the caller. `resource`: the part of `/mcp` that is asked.
///
/// # Errors
/// [`ApiError::Auth`].
pub(crate) async fn identify_with(
    recorder: &Recorder,
    allow_query_token: bool,
    resource: Option<Resource<'_>>,
) -> Result<Arc<Identity>, ApiError> {
    match caller(recorder, allow_query_token).await {
        Ok(identity) => {
            record(recorder).identity = Some(identity.clone());
            Ok(identity)
        }
        Err(error) => {
            let app = recorder.app();
            app.metrics.auth_rejections.with_label_values(&[error.kind()]).inc();
            let challenge = match resource {
                None => app.auth.challenge(error, None),
                Some(resource) => {
                    app.auth.challenge(error, app.metadata.address(&recorder.head().fields, resource).as_deref())
                }
            };
            Err(ApiError::Auth(error, challenge))
        }
    }
}

/// The identity behind the token of a request. Waits only where another service has to be asked about the token.
///
/// # Errors
/// The token is missing, or refused.
pub(crate) async fn caller(recorder: &Recorder, allow_query_token: bool) -> Result<Arc<Identity>, AuthError> {
    let (auth, head) = (&recorder.app().auth, recorder.head());
    let identity = match auth.look_at(&head.fields, head.query(), allow_query_token, recorder.arrived()) {
        TokenCheck::Known(identity) => Ok(identity),
        TokenCheck::Refused(error) => Err(error),
        // In a box, so that the usual request does not carry the room for it.
        TokenCheck::Pending(pending) => Box::pin(auth.ask(*pending)).await,
    };
    if identity.is_ok() {
        recorder.trust();
    }
    identity
}
