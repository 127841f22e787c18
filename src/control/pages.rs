//! The admin server's pages.

use super::board::Board;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::{Arc, Mutex, MutexGuard};

/// The board, shared by the pages and the tick of the one thread they all run on: never waited for.
type Shared = Arc<Mutex<Board>>;

/// User name that goes with the password, as for Redis clients.
const USER: &str = "default";

pub(super) fn lock(board: &Shared) -> MutexGuard<'_, Board> {
    // What a panic under the lock leaves behind is numbers, each right in itself.
    board.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// All pages. With a password all but the health checks ask for it.
pub(super) fn router(board: Shared, password: Option<&str>) -> Router {
    let mut inside = Router::new()
        .route("/", get(async || Html(include_str!("dashboard.html"))))
        .route("/metrics", get(metrics))
        .route("/v1/keyspaces", get(keyspaces))
        .route("/v1/prefetch", get(prefetch))
        .route("/v1/node", get(node));
    if let Some(password) = password {
        let keys = Arc::new(Keys::new(password));
        inside = inside.layer(middleware::from_fn_with_state(keys, guard));
    }
    inside
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                "no such page; there are / /metrics /livez /readyz /v1/node /v1/keyspaces /v1/prefetch\n",
            )
        })
        .with_state(board)
}

async fn metrics(State(board): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], lock(&board).render())
}

async fn node(State(board): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], format!("{}\n", lock(&board).node()))
}

async fn keyspaces(State(board): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], format!("{}\n", lock(&board).keyspaces()))
}

async fn prefetch(State(board): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], format!("{}\n", lock(&board).prefetch()))
}

async fn readyz(State(board): State<Shared>) -> (StatusCode, &'static str) {
    match lock(&board).ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or draining\n"),
    }
}

/// What opens the pages.
struct Keys {
    basic: String,
    bearer: String,
}

impl Keys {
    fn new(password: &str) -> Keys {
        Keys {
            basic: format!("Basic {}", STANDARD.encode(format!("{USER}:{password}"))),
            bearer: format!("Bearer {password}"),
        }
    }

    fn open(&self, given: &HeaderValue) -> bool {
        same(given.as_bytes(), self.basic.as_bytes()) | same(given.as_bytes(), self.bearer.as_bytes())
    }
}

/// Compares in a time that tells the length and nothing else.
fn same(given: &[u8], key: &[u8]) -> bool {
    given.len() == key.len() && given.iter().zip(key).fold(0, |unlike, (a, b)| unlike | (a ^ b)) == 0
}

async fn guard(State(keys): State<Arc<Keys>>, request: Request, next: Next) -> Response {
    if request.headers().get(header::AUTHORIZATION).is_some_and(|given| keys.open(given)) {
        return next.run(request).await;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"foreshadow\"")];
    (StatusCode::UNAUTHORIZED, challenge, "authentication required: user default and the password\n")
        .into_response()
}
