//! The admin server's pages.

use super::board::Board;
use super::errands::Carrier;
use super::listener::Respite;
use super::query::fields;
use super::record::{Desk, GRACE, Refusal, Wish};
use super::shards::{self, Unfit};
use super::why;
use crate::topology::Node;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The board, shared by the pages and the tick of the one thread they all run on: never waited for.
type Shared = Arc<Mutex<Board>>;

/// What pages need.
#[derive(Clone)]
pub(super) struct Rooms {
    board: Shared,
    node: Arc<Node>,
    carrier: Carrier,
    desk: Desk,
}

impl Rooms {
    pub fn new(board: Shared, node: Arc<Node>, carrier: Carrier) -> Rooms {
        let desk = Desk::new(carrier.clone(), usize::from(node.core_count()));
        Rooms { board, node, carrier, desk }
    }
}

/// User name that goes with the password, as for Redis clients.
const USER: &str = "default";

pub(super) fn lock(board: &Shared) -> MutexGuard<'_, Board> {
    // What a panic under the lock leaves behind is numbers, each right in itself.
    board.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// All pages. With a password all but the health checks ask for it.
pub(super) fn router(rooms: Rooms, password: Option<&str>) -> Router {
    let mut inside = Router::new()
        .route("/", get(async || Html(include_str!("dashboard.html"))))
        .route("/metrics", get(metrics))
        .route("/v1/keyspaces", get(keyspaces))
        .route("/v1/prefetch", get(prefetch))
        .route("/v1/record", get(record))
        .route("/v1/shards", get(all_shards))
        .route("/v1/shards/{shard}/move", post(move_shard))
        .route("/v1/moves", get(all_moves))
        .route("/v1/moves/{id}/cancel", post(cancel_move))
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
                "no such page; there are / /metrics /livez /readyz /v1/node /v1/keyspaces /v1/prefetch /v1/record /v1/shards /v1/moves\n",
            )
        })
        .with_state(rooms)
}

async fn metrics(State(rooms): State<Rooms>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], lock(&rooms.board).render())
}

async fn node(State(rooms): State<Rooms>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], format!("{}\n", lock(&rooms.board).node()))
}

async fn keyspaces(State(rooms): State<Rooms>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], format!("{}\n", lock(&rooms.board).keyspaces()))
}

/// All of prefetching, or why one key was fetched.
async fn prefetch(State(rooms): State<Rooms>, RawQuery(query): RawQuery) -> Response {
    let key = fields(query.as_deref().unwrap_or_default()).find(|(name, _)| name == "key");
    let page = match key {
        None => Some(lock(&rooms.board).prefetch()),
        Some((_, key)) => why::page(&rooms.carrier, &rooms.node.map, &key).await,
    };
    match page {
        Some(page) => ([(header::CONTENT_TYPE, "application/json")], format!("{page}\n")).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the key's core does not answer\n").into_response(),
    }
}

async fn record(
    State(rooms): State<Rooms>,
    ConnectInfo(respite): ConnectInfo<Respite>,
    RawQuery(query): RawQuery,
) -> Response {
    let wish = match Wish::of(query.as_deref().unwrap_or_default()) {
        Ok(wish) => wish,
        Err(wrong) => return (StatusCode::BAD_REQUEST, format!("{wrong}\n")).into_response(),
    };
    match rooms.desk.begin(wish) {
        Ok(pieces) => {
            respite.grant(Duration::from_secs(wish.seconds) + GRACE);
            ([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(pieces)).into_response()
        }
        Err(Refusal::Busy) => {
            (StatusCode::CONFLICT, "somebody records already; there is one recording at a time\n")
                .into_response()
        }
        Err(Refusal::NoSecret(why)) => {
            let why = format!("no secret to hash keys with: /dev/urandom: {why}\n");
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        }
    }
}

async fn all_shards(State(rooms): State<Rooms>) -> Response {
    json_or(shards::owners(&rooms.carrier, &rooms.node).await)
}

async fn all_moves(State(rooms): State<Rooms>) -> Response {
    json_or(shards::moves(&rooms.carrier, rooms.node.core_count()).await)
}

async fn move_shard(
    State(rooms): State<Rooms>,
    Path(shard): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = of_a_web_page(&headers) {
        return refusal;
    }
    let to = fields(query.as_deref().unwrap_or_default()).find(|(name, _)| name == "to");
    let to = to.map(|(_, to)| String::from_utf8_lossy(&to).into_owned()).unwrap_or_default();
    json_or(shards::begin(&rooms.carrier, &rooms.node, &shard, &to).await)
}

async fn cancel_move(State(rooms): State<Rooms>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if let Some(refusal) = of_a_web_page(&headers) {
        return refusal;
    }
    json_or(shards::cancel(&rooms.carrier, rooms.node.core_count(), &id).await)
}

/// A browser says where a page came from that has it post. None of ours does, and others have no business here.
fn of_a_web_page(headers: &HeaderMap) -> Option<Response> {
    let refused = || (StatusCode::FORBIDDEN, "not for web pages\n").into_response();
    headers.contains_key(header::ORIGIN).then(refused)
}

fn json_or(page: Result<serde_json::Value, Unfit>) -> Response {
    match page {
        Ok(page) => ([(header::CONTENT_TYPE, "application/json")], format!("{page}\n")).into_response(),
        Err(Unfit { status, why }) => (status, format!("{why}\n")).into_response(),
    }
}

async fn readyz(State(rooms): State<Rooms>) -> (StatusCode, &'static str) {
    match lock(&rooms.board).ready() {
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
