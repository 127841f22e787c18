//! Whose a line is, how long a wait may take, and what ends with what.

use super::*;

const TIMEOUT: u64 = 100;
const FOREVER: u64 = u64::MAX;

fn at(millis: u64) -> Mono {
    Mono(0).plus_millis(millis)
}

fn client(place: u32) -> ConnectionId {
    ConnectionId { place, generation: 0 }
}

fn lines(lines_max: usize) -> PrivateLines {
    let target = Arc::new(Target::parse("redis://127.0.0.1").expect("a URL"));
    let limits = Limits { value_bytes_max: 1 << 20 };
    PrivateLines::new(target, Options { lines_max, timeout_millis: TIMEOUT, limits })
}

fn how(waits_millis: u64, keeps: Keeps) -> Private {
    Private { waits_millis, keeps, confirms: false, continues: false }
}

fn command(text: &str) -> Ask {
    Ask { key: Vec::new(), what: What::Command { bytes: text.into(), replies: 1 } }
}

fn actions(lines: &mut PrivateLines) -> Vec<Action> {
    std::iter::from_fn(|| lines.poll()).collect()
}

fn sent(lines: &mut PrivateLines, line: u64) -> String {
    let output = lines.output(Line(line)).map(std::mem::take).unwrap_or_default();
    String::from_utf8(output).expect("text")
}

fn answer(ticket: u64, bytes: &str) -> Action {
    Action::Tell(Told::Answer(Ticket(ticket), Reply::Raw(bytes.into())))
}

fn failed(ticket: u64, why: Failure) -> Action {
    Action::Tell(Told::Failed(Ticket(ticket), why))
}

/// A connection stands, and the origin greets it and says what it calls it: 10 more than we do.
fn greet(lines: &mut PrivateLines, line: u64) {
    lines.connected(at(0), Line(line));
    assert_eq!(actions(lines), [Action::Send(Line(line))]);
    let said = sent(lines, line);
    assert!(said.ends_with("*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n"), "{said}");
    if said.contains("HELLO") {
        lines.received(at(0), Line(line), b"%1\r\n+proto\r\n:3\r\n");
    }
    lines.received(at(0), Line(line), format!(":{}\r\n", line + 10).as_bytes());
}

/// A line that stands, with nothing of it left to be looked at.
fn begin(lines: &mut PrivateLines, place: u32, ticket: u64, text: &str, how: Private) -> u64 {
    let line = lines.next_line;
    lines.ask(at(0), client(place), 2, Ticket(ticket), command(text), how, None);
    assert_eq!(actions(lines), [Action::Connect(Line(line))]);
    greet(lines, line);
    assert_eq!(actions(lines), [Action::Send(Line(line))]);
    assert_eq!(sent(lines, line), text);
    line
}

#[test]
fn a_line_of_which_nothing_is_kept_is_the_next_clients_and_bounded_are_all() {
    let mut lines = lines(2);
    begin(&mut lines, 1, 1, "BLPOP a 0", how(FOREVER, Keeps::Nothing));
    assert!(lines.waits(client(1)) && !lines.waits(client(2)));
    assert_eq!(lines.waiting_count(), 1);
    lines.received(at(500), Line(0), b"*-1\r\n");
    assert_eq!(actions(&mut lines), [answer(1, "*-1\r\n")]);
    assert!(!lines.waits(client(1)));
    // No new connection: the one is free again.
    lines.ask(at(500), client(2), 2, Ticket(2), command("BLPOP b 0"), how(FOREVER, Keeps::Nothing), None);
    assert_eq!(actions(&mut lines), [Action::Send(Line(0))]);
    begin(&mut lines, 3, 3, "BLPOP c 0", how(FOREVER, Keeps::Nothing));
    lines.ask(at(500), client(4), 2, Ticket(4), command("BLPOP d 0"), how(FOREVER, Keeps::Nothing), None);
    assert_eq!(actions(&mut lines), [failed(4, Failure::Crowded)]);
    // One that speaks another version gives way to who needs a line.
    lines.received(at(500), Line(1), b"*-1\r\n");
    lines.ask(at(500), client(4), 3, Ticket(5), command("BLPOP d 0"), how(FOREVER, Keeps::Nothing), None);
    let expected = [answer(3, "*-1\r\n"), Action::Close(Line(1)), Action::Connect(Line(2))];
    assert_eq!(actions(&mut lines), expected);
    assert_eq!(lines.count(), 2);
}

#[test]
fn what_waits_has_the_time_it_asked_for_and_the_origins_beside() {
    let mut lines = lines(8);
    begin(&mut lines, 1, 1, "BLPOP a 0", how(FOREVER, Keeps::Nothing));
    assert_eq!(lines.next_due(), None, "as long as the client stays");
    begin(&mut lines, 2, 2, "BLPOP a 1", how(1000, Keeps::Nothing));
    assert_eq!(lines.next_due(), Some(at(1000 + TIMEOUT)));
    // What stands behind it begins its time when it is its turn.
    lines.ask(at(0), client(2), 2, Ticket(3), command("BLPOP a 2"), how(2000, Keeps::Nothing), None);
    lines.received(at(700), Line(1), b"*-1\r\n");
    assert_eq!(lines.next_due(), Some(at(2700 + TIMEOUT)));
    actions(&mut lines);
    lines.tick(at(2700 + TIMEOUT));
    assert_eq!(actions(&mut lines), [Action::Close(Line(1)), failed(3, Failure::Overdue)]);
    assert_eq!((lines.count(), lines.next_due()), (1, None));
    // Connecting has its time, too.
    lines.ask(at(5000), client(4), 2, Ticket(4), command("BLPOP a 0"), how(FOREVER, Keeps::Nothing), None);
    lines.tick(at(5000 + TIMEOUT));
    let expected = [Action::Connect(Line(2)), Action::Close(Line(2)), failed(4, Failure::Unreachable)];
    assert_eq!(actions(&mut lines), expected);
}

#[test]
fn a_client_that_goes_frees_its_line_and_the_origin_of_its_wait() {
    let mut lines = lines(8);
    begin(&mut lines, 1, 1, "BLPOP a 0", how(FOREVER, Keeps::Nothing));
    lines.bind(Line(0), client(70));
    assert!(lines.leave(client(1)) && !lines.leave(client(1)));
    assert_eq!(actions(&mut lines), [Action::Close(Line(0)), failed(1, Failure::Closed)]);
    assert_eq!((lines.unbind(Line(0)), lines.unbind(Line(0))), (Some(client(70)), None));
    assert!(lines.is_empty());
    // Subscribed or watching, it has nobody left to be told.
    begin(&mut lines, 2, 2, "SUBSCRIBE x", how(0, Keeps::Subscribed));
    assert!(lines.leave(client(2)));
    assert_eq!(actions(&mut lines), [Action::Close(Line(1)), failed(2, Failure::Closed)]);
}

#[test]
fn what_relies_on_watched_keys_is_never_done_on_another_line() {
    let mut lines = lines(8);
    begin(&mut lines, 1, 1, "WATCH a", how(0, Keeps::Watched));
    lines.received(at(1), Line(0), b"+OK\r\n");
    assert_eq!(actions(&mut lines), [answer(1, "+OK\r\n")]);
    lines.closed(Line(0));
    assert_eq!(actions(&mut lines), []);
    let exec = Private { continues: true, ..how(0, Keeps::Nothing) };
    lines.ask(at(2), client(1), 2, Ticket(2), command("EXEC"), exec, None);
    assert_eq!(actions(&mut lines), [failed(2, Failure::Closed)], "and no connection is made");
    // On the line on which they are watched, it is; and then the line is free.
    begin(&mut lines, 1, 3, "WATCH a", how(0, Keeps::Watched));
    lines.ask(at(3), client(1), 2, Ticket(4), command("EXEC"), exec, None);
    lines.received(at(4), Line(1), b"+OK\r\n*-1\r\n");
    let expected = [Action::Send(Line(1)), answer(3, "+OK\r\n"), answer(4, "*-1\r\n")];
    assert_eq!(actions(&mut lines), expected);
    lines.ask(at(5), client(9), 2, Ticket(5), command("WATCH b"), how(0, Keeps::Watched), None);
    assert_eq!(actions(&mut lines), [Action::Send(Line(1))]);
}

#[test]
fn what_is_published_comes_among_confirmations_and_behind_them_in_both_versions() {
    for (protocol, mark) in [(2, '*'), (3, '>')] {
        let mut lines = lines(8);
        let subscribe = Private { confirms: true, ..how(0, Keeps::Subscribed) };
        let what = What::Subscribe { bytes: b"SUBSCRIBE x y".to_vec(), confirms: 2 };
        let ask = Ask { key: Vec::new(), what };
        lines.ask(at(0), client(1), protocol, Ticket(1), ask, subscribe, None);
        lines.connected(at(0), Line(0));
        if protocol == 3 {
            lines.received(at(0), Line(0), b"%1\r\n+proto\r\n:3\r\n");
        }
        lines.received(at(0), Line(0), b":10\r\n");
        actions(&mut lines);
        let frame = |kind: &str, name: &str, last: &str| {
            format!("{mark}3\r\n${}\r\n{kind}\r\n$1\r\n{name}\r\n{last}\r\n", kind.len())
        };
        let replies =
            [frame("subscribe", "x", ":1"), frame("message", "x", "$1\r\nm"), frame("subscribe", "y", ":2")];
        let later = frame("message", "y", "$1\r\nn");
        lines.received(at(1), Line(0), [replies.concat().as_str(), &later].concat().as_bytes());
        let pushed = Action::Tell(Told::Pushed(client(1), later.into_bytes()));
        assert_eq!(actions(&mut lines), [answer(1, &replies.concat()), pushed]);
        assert_eq!(lines.next_due(), None);
        // A connection that ends without us ends the client's, too: it would wait for messages that never come.
        lines.closed(Line(0));
        assert_eq!(actions(&mut lines), [Action::Tell(Told::Lost(client(1)))]);
    }
}

#[test]
fn a_subscription_that_is_refused_ends_the_line_behind_the_refusal() {
    let mut lines = lines(8);
    let what = What::Subscribe { bytes: b"SUBSCRIBE x".to_vec(), confirms: 1 };
    lines.ask(at(0), client(1), 2, Ticket(1), Ask { key: Vec::new(), what }, how(0, Keeps::Subscribed), None);
    assert_eq!(actions(&mut lines), [Action::Connect(Line(0))]);
    greet(&mut lines, 0);
    actions(&mut lines);
    lines.received(at(1), Line(0), b"-NOPERM no\r\n");
    let lost = Action::Tell(Told::Lost(client(1)));
    assert_eq!(actions(&mut lines), [answer(1, "-NOPERM no\r\n"), Action::Close(Line(0)), lost]);
}

#[test]
fn a_line_that_says_what_nobody_asked_is_closed_and_fails_what_was_asked() {
    let mut lines = lines(8);
    begin(&mut lines, 1, 1, "BLPOP a 0", how(FOREVER, Keeps::Nothing));
    lines.received(at(1), Line(0), b":1\r\n:2\r\n");
    assert_eq!(actions(&mut lines), [answer(1, ":1\r\n"), Action::Close(Line(0))]);
    begin(&mut lines, 1, 2, "BLPOP a 0", how(FOREVER, Keeps::Nothing));
    lines.received(at(1), Line(1), b"?\r\n");
    assert_eq!(actions(&mut lines), [Action::Close(Line(1)), failed(2, Failure::Broken)]);
    assert!(lines.is_empty());
}

#[test]
fn a_command_without_bytes_ends_the_line() {
    let mut lines = lines(8);
    begin(&mut lines, 1, 1, "SUBSCRIBE x", how(0, Keeps::Subscribed));
    lines.ask(at(1), client(1), 2, Ticket(2), command(""), how(0, Keeps::Nothing), None);
    let expected = [Action::Close(Line(0)), failed(1, Failure::Closed), answer(2, "")];
    assert_eq!(actions(&mut lines), expected);
}

fn cluster_lines() -> PrivateLines {
    let target = Arc::new(Target::parse("redis://127.0.0.1?cluster=on").expect("a URL"));
    let limits = Limits { value_bytes_max: 1 << 20 };
    PrivateLines::new(target, Options { lines_max: 8, timeout_millis: TIMEOUT, limits })
}

fn node(port: u16) -> Option<Place> {
    Some(Place { ip: None, port, name: None })
}

fn keyed(key: &str, text: &str) -> Ask {
    Ask { key: key.into(), ..command(text) }
}

/// Has the line stand that was just asked for, with nothing of it left to be looked at.
fn stand(lines: &mut PrivateLines, line: u64) {
    assert_eq!(actions(lines), [Action::Connect(Line(line))]);
    greet(lines, line);
    actions(lines);
}

#[test]
fn in_a_cluster_a_line_leads_to_the_node_of_its_command_and_another_follows_in_order() {
    let mut lines = cluster_lines();
    let forever = how(FOREVER, Keeps::Nothing);
    lines.ask(at(0), client(1), 2, Ticket(1), keyed("a", "BLPOP a 0"), forever, node(1));
    stand(&mut lines, 0);
    assert_eq!(lines.place(Line(0)), node(1).as_ref());
    assert_eq!(sent(&mut lines, 0), "BLPOP a 0");
    // Pipelined: for another node, and behind that for this one. Both wait, so that they stay in order.
    lines.ask(at(0), client(1), 2, Ticket(2), keyed("b", "BLPOP b 0"), forever, node(2));
    lines.ask(at(0), client(1), 2, Ticket(3), keyed("a", "BLPOP a 0"), forever, node(1));
    assert_eq!(actions(&mut lines), []);
    lines.received(at(1), Line(0), b"*-1\r\n");
    assert_eq!(actions(&mut lines), [answer(1, "*-1\r\n"), Action::Connect(Line(1))]);
    assert_eq!(lines.place(Line(1)), node(2).as_ref());
    greet(&mut lines, 1);
    lines.received(at(2), Line(1), b"*-1\r\n");
    // The first line is idle by now, and fits.
    assert_eq!(actions(&mut lines), [Action::Send(Line(1)), answer(2, "*-1\r\n"), Action::Send(Line(0))]);
    assert_eq!(sent(&mut lines, 0), "BLPOP a 0");
    // Who goes takes along what waits behind.
    lines.ask(at(3), client(1), 2, Ticket(4), keyed("b", "BLPOP b 0"), forever, node(2));
    assert!(lines.leave(client(1)));
    let expected = [Action::Close(Line(0)), failed(3, Failure::Closed), failed(4, Failure::Closed)];
    assert_eq!(actions(&mut lines), expected);
}

#[test]
fn in_a_cluster_what_is_watched_holds_the_line_and_no_redirection_is_handed_on() {
    let mut lines = cluster_lines();
    lines.ask(at(0), client(1), 2, Ticket(1), keyed("a", "WATCH a"), how(0, Keeps::Watched), node(1));
    stand(&mut lines, 0);
    lines.received(at(1), Line(0), b"+OK\r\n");
    let get = Private { continues: true, ..how(0, Keeps::Watched) };
    lines.ask(at(1), client(1), 2, Ticket(2), keyed("b", "GET b"), get, node(2));
    lines.received(at(2), Line(0), b"-MOVED 3300 10.0.0.2:2\r\n");
    let refused = Told::Answer(Ticket(2), Reply::Refused(redis::ONE_NODE_ONLY.to_vec()));
    let expected = [answer(1, "+OK\r\n"), Action::Send(Line(0)), Action::Tell(refused)];
    assert_eq!(actions(&mut lines), expected, "it stays open, and what is watched stays watched");
    assert!(lines.take_astray() && !lines.take_astray(), "the map is looked at again");
}

#[test]
fn in_a_cluster_nobody_is_told_that_replicas_of_one_node_have_all() {
    let mut lines = cluster_lines();
    lines.ask(at(0), client(1), 2, Ticket(1), command("WAIT 1 0"), how(FOREVER, Keeps::Nothing), node(1));
    let refused = Told::Answer(Ticket(1), Reply::Refused(NOT_OF_MANY.to_vec()));
    assert_eq!(actions(&mut lines), [Action::Tell(refused)]);
    assert!(lines.is_empty());
}

#[test]
fn a_subscription_that_waits_for_another_node_is_lost_with_the_line_before_it() {
    let mut lines = cluster_lines();
    lines.ask(at(0), client(1), 3, Ticket(1), keyed("a", "BLPOP a 0"), how(FOREVER, Keeps::Nothing), node(1));
    stand(&mut lines, 0);
    let what = What::Subscribe { bytes: b"SUBSCRIBE x".to_vec(), confirms: 1 };
    let ask = Ask { key: Vec::new(), what };
    lines.ask(at(0), client(1), 3, Ticket(2), ask, how(0, Keeps::Subscribed), node(2));
    lines.closed(Line(0));
    let lost = Action::Tell(Told::Lost(client(1)));
    assert_eq!(actions(&mut lines), [failed(1, Failure::Closed), failed(2, Failure::Closed), lost]);
    assert!(lines.take_astray());
}

fn unblocked(number: u64, bytes: &str) -> Action {
    Action::Tell(Told::Unblocked(number, Ok(Reply::Raw(bytes.into()))))
}

const UNBLOCK_10: &str = "*4\r\n$6\r\nCLIENT\r\n$7\r\nUNBLOCK\r\n$2\r\n10\r\n$7\r\nTIMEOUT\r\n";

#[test]
fn a_wait_is_ended_by_the_origin_which_is_told_so_on_another_line() {
    let mut lines = lines(8);
    begin(&mut lines, 1, 1, "BLPOP a 0", how(FOREVER, Keeps::Nothing));
    assert!(lines.unblock(at(1), client(1), UnblockAs::Timeout, 5));
    assert_eq!(actions(&mut lines), [Action::Connect(Line(1))]);
    greet(&mut lines, 1);
    assert_eq!(actions(&mut lines), [Action::Send(Line(1))]);
    assert_eq!(sent(&mut lines, 1), UNBLOCK_10);
    // What the command answers is the origin's to say.
    lines.received(at(2), Line(0), b"*-1\r\n");
    assert_eq!(actions(&mut lines), [answer(1, "*-1\r\n")]);
    // The errand may still be on its way: whoever waited on that line now would be meant.
    begin(&mut lines, 2, 2, "BLPOP b 0", how(FOREVER, Keeps::Nothing));
    lines.received(at(3), Line(1), b":1\r\n");
    assert_eq!(actions(&mut lines), [unblocked(5, ":1\r\n")]);
    lines.ask(at(3), client(3), 2, Ticket(3), command("BLPOP c 0"), how(FOREVER, Keeps::Nothing), None);
    assert_eq!(actions(&mut lines), [Action::Send(Line(0))]);
    // The next errand takes the line of the one before.
    assert!(lines.unblock(at(4), client(3), UnblockAs::Error, 6));
    assert_eq!(actions(&mut lines), [Action::Send(Line(1))]);
    assert_eq!(sent(&mut lines, 1), UNBLOCK_10.replace("$7\r\nTIMEOUT", "$5\r\nERROR"));
    lines.received(at(5), Line(1), b":0\r\n");
    assert_eq!(actions(&mut lines), [unblocked(6, ":0\r\n")]);
    assert!(lines.waits(client(3)), "the origin knew better");
}

#[test]
fn who_waits_for_nothing_is_not_unblocked() {
    let mut lines = lines(8);
    assert!(!lines.unblock(at(0), client(1), UnblockAs::Timeout, 1));
    begin(&mut lines, 1, 1, "WATCH a", how(0, Keeps::Watched));
    assert!(!lines.unblock(at(0), client(1), UnblockAs::Timeout, 1), "its answer comes by itself");
    // A command that has not gone out yet waits for nothing there.
    lines.ask(at(0), client(2), 2, Ticket(2), command("BLPOP a 0"), how(FOREVER, Keeps::Nothing), None);
    assert!(!lines.unblock(at(0), client(2), UnblockAs::Timeout, 1));
}

#[test]
fn an_errand_has_a_line_when_there_is_none_left_and_leaves_none_behind() {
    let mut lines = lines(1);
    begin(&mut lines, 1, 1, "BLPOP a 0", how(FOREVER, Keeps::Nothing));
    assert!(lines.unblock(at(0), client(1), UnblockAs::Timeout, 5));
    assert_eq!(actions(&mut lines), [Action::Connect(Line(1))]);
    greet(&mut lines, 1);
    lines.received(at(1), Line(1), b":1\r\n");
    let expected = [Action::Send(Line(1)), unblocked(5, ":1\r\n"), Action::Close(Line(1))];
    assert_eq!(actions(&mut lines), expected);
    assert_eq!(lines.count(), 1);
    // So many at a time.
    for number in 0..ERRANDS_MAX as u64 {
        assert!(lines.unblock(at(1), client(1), UnblockAs::Timeout, number));
        assert_eq!(actions(&mut lines), [Action::Connect(Line(number + 2))]);
    }
    assert!(lines.unblock(at(1), client(1), UnblockAs::Timeout, 99));
    let refused = Told::Unblocked(99, Ok(Reply::Refused(ERRANDS_CROWDED.to_vec())));
    assert_eq!(actions(&mut lines), [Action::Tell(refused)]);
}

#[test]
fn an_errand_that_fails_is_told_and_holds_nobody_up() {
    let mut lines = cluster_lines();
    let forever = how(FOREVER, Keeps::Nothing);
    lines.ask(at(0), client(1), 2, Ticket(1), keyed("a", "BLPOP a 0"), forever, node(1));
    stand(&mut lines, 0);
    assert!(lines.unblock(at(0), client(1), UnblockAs::Timeout, 5));
    assert_eq!(actions(&mut lines), [Action::Connect(Line(1))]);
    assert_eq!(lines.place(Line(1)), node(1).as_ref(), "the node where the client waits");
    // Behind it the client wants something of another node.
    lines.ask(at(0), client(1), 2, Ticket(2), keyed("b", "BLPOP b 0"), forever, node(2));
    lines.received(at(1), Line(0), b"*-1\r\n");
    assert_eq!(actions(&mut lines), [answer(1, "*-1\r\n")]);
    assert_eq!(lines.next_due(), Some(at(TIMEOUT)));
    lines.tick(at(TIMEOUT));
    let told = Action::Tell(Told::Unblocked(5, Err(Failure::Unreachable)));
    assert_eq!(actions(&mut lines), [Action::Close(Line(1)), told, Action::Connect(Line(2))]);
    assert_eq!(lines.place(Line(2)), node(2).as_ref());
    // Closed by itself, too; what is freed by that goes on with the next tick.
    greet(&mut lines, 2);
    assert!(lines.unblock(at(200), client(1), UnblockAs::Timeout, 6));
    assert_eq!(actions(&mut lines), [Action::Send(Line(2)), Action::Connect(Line(3))]);
    lines.received(at(201), Line(2), b"*-1\r\n");
    lines.closed(Line(3));
    let told = Action::Tell(Told::Unblocked(6, Err(Failure::Unreachable)));
    assert_eq!(actions(&mut lines), [answer(2, "*-1\r\n"), told]);
    assert_eq!(lines.next_due(), Some(Mono(0)));
    lines.tick(at(201));
    assert_eq!(lines.next_due(), None);
    lines.ask(at(202), client(7), 2, Ticket(7), keyed("b", "BLPOP b 0"), forever, node(2));
    assert_eq!(actions(&mut lines), [Action::Send(Line(2))]);
}

#[test]
fn a_login_that_may_not_ask_for_its_number_does_all_else() {
    let mut lines = lines(8);
    lines.ask(at(0), client(1), 2, Ticket(1), command("BLPOP a 0"), how(FOREVER, Keeps::Nothing), None);
    lines.connected(at(0), Line(0));
    lines.received(at(0), Line(0), b"-NOPERM no\r\n");
    let expected = [Action::Connect(Line(0)), Action::Send(Line(0)), Action::Send(Line(0))];
    assert_eq!(actions(&mut lines), expected);
    assert!(lines.unblock(at(1), client(1), UnblockAs::Timeout, 5));
    let refused = Told::Unblocked(5, Ok(Reply::Refused(NUMBER_UNKNOWN.to_vec())));
    assert_eq!(actions(&mut lines), [Action::Tell(refused)]);
}
