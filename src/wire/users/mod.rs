//! Who may do what: users with their passwords, commands, keys and channels, by the rules that Redis' `ACL SETUSER` takes.
//!
//! A table of users is a value: a change makes another one, which cores hand to their sessions. Passwords are kept as SHA-256
//! only, and comparing one takes the same time whether it is right, wrong, or of a user that is not there.

mod selector;

pub use selector::{Access, Selector};

use super::Backend;
use super::denials::{Denial, Ground};
use super::resp::commands::Command;
use crate::clock::Mono;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The user of those who name none.
pub const DEFAULT: &[u8] = b"default";
/// Users at most, and bytes of one's rules.
pub const USERS_MAX: usize = 1024;
/// Bytes of the rules of one user.
pub const RULES_BYTES_MAX: usize = 64 << 10;

type Digest = [u8; 32];

/// All users, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    by_name: BTreeMap<Vec<u8>, Arc<User>>,
}

/// A user. It may do what any of its selectors allows whole: one alone has to allow the command and all that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: Vec<u8>,
    on: bool,
    nopass: bool,
    passwords: Vec<Digest>,
    /// What the rules outside of brackets say.
    root: Selector,
    /// What those in brackets say.
    selectors: Vec<Selector>,
}

/// Why a command is not for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The command.
    Command,
    /// A key: the argument.
    Key(usize),
    /// A channel: the argument.
    Channel(usize),
}

/// Why a rule cannot be followed: the words of `ACL SETUSER` for it.
pub type RuleError = &'static str;

/// A bracket that is not closed; the rule is where it opens.
pub const UNMATCHED: RuleError = "Unmatched parenthesis in acl selector";
const SYNTAX: RuleError = "Syntax error";

impl Users {
    /// The default user alone: everything is allowed, with a password if there is one.
    pub fn with_password(password: Option<&str>) -> Users {
        let mut user = User::new(DEFAULT);
        for rule in ["on", "nopass", "~*", "&*", "+@all"] {
            user.follow(rule.as_bytes()).expect("a rule that is known");
        }
        if let Some(password) = password {
            user.nopass = false;
            user.passwords.push(digest(password.as_bytes()));
        }
        Users { by_name: BTreeMap::from([(DEFAULT.to_vec(), Arc::new(user))]) }
    }

    /// The user of this name.
    pub fn find(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
        self.by_name.values()
    }

    /// Number of users.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// Puts a user into the table, in the place of another one of its name.
    pub fn put(&mut self, user: User) {
        self.by_name.insert(user.name.clone(), Arc::new(user));
    }

    /// Takes a user out; the default one stays.
    pub fn remove(&mut self, name: &[u8]) {
        if name != DEFAULT {
            self.by_name.remove(name);
        }
    }

    /// Changes or makes a user by rules with spaces between them, none of which may fail.
    ///
    /// # Errors
    /// The first rule that cannot be followed, and why.
    pub fn set(&mut self, name: &[u8], rules: &[u8]) -> Result<(), (Vec<u8>, RuleError)> {
        let words = rules.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let user = self.changed(name, words)?;
        self.put(user);
        Ok(())
    }

    /// What a user would be after rules. A selector may come in several pieces: from one that opens a bracket to the one that
    /// closes it.
    ///
    /// # Errors
    /// The first rule that cannot be followed, and why.
    pub fn changed<'r>(
        &self,
        name: &[u8],
        rules: impl Iterator<Item = &'r [u8]>,
    ) -> Result<User, (Vec<u8>, RuleError)> {
        let mut user = self.find(name).map_or_else(|| User::new(name), |user| User::clone(user));
        let mut open: Option<(&[u8], Vec<u8>)> = None;
        for rule in rules {
            match &mut open {
                None if rule.starts_with(b"(") && !rule.ends_with(b")") => open = Some((rule, rule.to_vec())),
                None => user.follow(rule).map_err(|why| (rule.to_vec(), why))?,
                Some((_, whole)) => {
                    whole.push(b' ');
                    whole.extend_from_slice(rule);
                    if rule.ends_with(b")") {
                        user.follow(whole).map_err(|why| (whole.clone(), why))?;
                        open = None;
                    }
                }
            }
        }
        match open {
            Some((start, _)) => Err((start.to_vec(), UNMATCHED)),
            None => Ok(user),
        }
    }

    /// The user who comes without a password, if the default one may.
    pub fn welcome(&self) -> Option<Arc<User>> {
        self.find(DEFAULT).filter(|user| user.is_open()).cloned()
    }

    /// The user of this name if the password is right and it may come in. Takes as long for a wrong one.
    pub fn admit(&self, name: &[u8], password: &[u8]) -> Option<Arc<User>> {
        let given = digest(password);
        let user = self.find(name);
        // Who is not there is compared as well.
        let known: &[Digest] = user.map_or(&[[0; 32]], |user| &user.passwords);
        let right = known.iter().fold(false, |right, known| right | same(&given, known));
        let user = user?;
        (user.on && (user.nopass || right)).then(|| user.clone())
    }
}

/// Who the client of a session is, and who it may become.
#[derive(Clone, Debug)]
pub(crate) struct Badge {
    users: Arc<Users>,
    user: Option<Arc<User>>,
    /// Where it comes from.
    source: Arc<str>,
}

impl Badge {
    /// Of one from there who has said nothing: the default user, if that needs no password.
    pub fn new(users: Arc<Users>, source: &str) -> Badge {
        Badge { user: users.welcome(), users, source: source.into() }
    }

    /// Who the client is; `None`: it has to say.
    #[inline]
    pub fn user(&self) -> Option<&Arc<User>> {
        self.user.as_ref()
    }

    /// All users.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Whether the client may do everything.
    #[inline]
    pub fn is_free(&self) -> bool {
        self.user.as_ref().is_some_and(|user| user.is_free())
    }

    /// Lets the client in as a user whose password it knows; `false` if it does not, and nothing has changed.
    pub fn admit(&mut self, backend: &mut impl Backend, now: Mono, name: &[u8], password: &[u8]) -> bool {
        self.admit_if(backend, now, name, password, |_| true)
    }

    /// As `admit`, where only users may come in who may do everything, because nothing is looked at one by one.
    pub fn admit_free(
        &mut self,
        backend: &mut impl Backend,
        now: Mono,
        name: &[u8],
        password: &[u8],
    ) -> bool {
        let right = self.admit_if(backend, now, name, password, User::is_free);
        if !right {
            let client = format!("addr={}", self.source);
            backend.denied(&Denial {
                ground: Ground::Login,
                queued: false,
                object: b"AUTH",
                user: name,
                client: client.as_bytes(),
            });
        }
        right
    }

    fn admit_if(
        &mut self,
        backend: &mut impl Backend,
        now: Mono,
        name: &[u8],
        password: &[u8],
        fits: impl FnOnce(&User) -> bool,
    ) -> bool {
        let trusted = backend.trusts(now, &self.source, name);
        // Compared in any case, which takes as long.
        let user = self.users.admit(name, password);
        if trusted && user.is_none() {
            backend.distrust(now, &self.source, name);
        }
        let user = user.filter(|user| trusted && fits(user));
        let right = user.is_some();
        self.user = user.or(self.user.take());
        right
    }

    /// Lets the client in as a user that something else has shown it to be; `false` if there is no such user.
    pub fn identify(&mut self, name: &[u8]) -> bool {
        let user = self.users.find(name).filter(|user| user.on).cloned();
        let known = user.is_some();
        self.user = user.or(self.user.take());
        known
    }

    /// As it was at first.
    pub fn reset(&mut self) {
        self.user = self.users.welcome();
    }

    /// Takes in a change that the client itself asked for, before the cores tell of it: what it asks next sees it.
    pub fn change(&mut self, change: impl FnOnce(&mut Users)) {
        let mut users = Users::clone(&self.users);
        change(&mut users);
        self.adopt(&Arc::new(users));
    }

    /// Takes in that users have changed; `false` if the client's own is there no more.
    pub fn adopt(&mut self, users: &Arc<Users>) -> bool {
        self.users = users.clone();
        let Some(known) = self.user.take() else { return true };
        self.user = users.find(&known.name).cloned();
        self.user.is_some()
    }
}

fn digest(password: &[u8]) -> Digest {
    Sha256::digest(password).into()
}

fn same(left: &Digest, right: &Digest) -> bool {
    let difference = left.iter().zip(right).fold(0, |difference, (l, r)| difference | (l ^ r));
    std::hint::black_box(difference) == 0
}

impl User {
    /// One who may do nothing yet.
    fn new(name: &[u8]) -> User {
        User {
            name: name.to_vec(),
            on: false,
            nopass: false,
            passwords: Vec::new(),
            root: Selector::new(),
            selectors: Vec::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Whether nothing is forbidden to it, so that nobody need ask.
    #[inline]
    pub fn is_free(&self) -> bool {
        self.root.allows_all()
    }

    /// Whether anybody is this user without a word, if it is the default one.
    pub fn is_open(&self) -> bool {
        self.on && self.nopass
    }

    /// Whether it comes in without a password.
    pub fn needs_no_password(&self) -> bool {
        self.nopass
    }

    fn follow(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        // Words are words in any case; patterns and passwords begin with a sign.
        let lower = rule.to_ascii_lowercase();
        let word = if rule.first().is_some_and(u8::is_ascii_alphabetic) { &lower[..] } else { rule };
        match word {
            b"on" => self.on = true,
            b"off" => self.on = false,
            b"nopass" => (self.nopass, self.passwords) = (true, Vec::new()),
            b"resetpass" => (self.nopass, self.passwords) = (false, Vec::new()),
            b"reset" => *self = User::new(&std::mem::take(&mut self.name)),
            b"clearselectors" => self.selectors.clear(),
            // There is nothing to sanitize.
            b"sanitize-payload" | b"skip-sanitize-payload" => {}
            [b'>', password @ ..] => self.add_password(digest(password)),
            [b'<', password @ ..] => self.remove_password(digest(password))?,
            [b'#', hash @ ..] => self.add_password(hash_of(hash)?),
            [b'!', hash @ ..] => self.remove_password(hash_of(hash)?)?,
            [b'(', inner @ .., b')'] => {
                let mut selector = Selector::new();
                for rule in inner.split(|byte| *byte == b' ').filter(|rule| !rule.is_empty()) {
                    selector.follow(rule)?;
                }
                self.selectors.push(selector);
            }
            rule => self.root.follow(rule)?,
        }
        Ok(())
    }

    fn add_password(&mut self, password: Digest) {
        self.nopass = false;
        if !self.passwords.contains(&password) {
            self.passwords.push(password);
        }
    }

    fn remove_password(&mut self, password: Digest) -> Result<(), RuleError> {
        let place = self.passwords.iter().position(|known| *known == password);
        let place = place.ok_or("The password you are trying to remove from the user does not exist")?;
        self.passwords.remove(place);
        Ok(())
    }

    /// Whether it may do this with these arguments, the command's name among them.
    ///
    /// # Errors
    /// What it may not, by the selector that comes closest.
    pub fn may<'a>(
        &self,
        command: &Command,
        subcommand: &str,
        count: usize,
        argument: impl Fn(usize) -> &'a [u8],
    ) -> Result<(), Denied> {
        let mut closest = match self.root.may(command, subcommand, count, &argument) {
            Ok(()) => return Ok(()),
            Err(denied) => denied,
        };
        for selector in &self.selectors {
            match selector.may(command, subcommand, count, &argument) {
                Ok(()) => return Ok(()),
                Err(denied) if denied.rank() > closest.rank() => closest = denied,
                Err(_) => {}
            }
        }
        Err(closest)
    }

    /// What the rules outside of brackets say.
    pub fn root(&self) -> &Selector {
        &self.root
    }

    /// What those in brackets say.
    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    /// Its flags, for `ACL GETUSER`.
    pub fn flags(&self) -> impl Iterator<Item = &'static str> {
        [Some(if self.on { "on" } else { "off" }), self.nopass.then_some("nopass")].into_iter().flatten()
    }

    /// SHA-256 of its passwords, in hexadecimal.
    pub fn password_hashes(&self) -> Vec<String> {
        let hexadecimal = |digest: &Digest| digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.passwords.iter().map(hexadecimal).collect()
    }

    /// All rules, by which [`Users::set`] makes the user again from nothing.
    pub fn rules(&self) -> Vec<u8> {
        let mut rules: Vec<Vec<u8>> = self.flags().map(|flag| flag.as_bytes().to_vec()).collect();
        rules.extend(self.password_hashes().iter().map(|hash| format!("#{hash}").into_bytes()));
        rules.push(self.root.rules());
        rules.extend(self.selectors.iter().map(|selector| [b"(", &selector.rules()[..], b")"].concat()));
        rules.join(&b' ')
    }
}

impl Denied {
    /// How close to being allowed: a later thing that is forbidden is closer.
    fn rank(self) -> (u8, usize) {
        match self {
            Denied::Command => (0, 0),
            Denied::Key(at) => (1, at),
            Denied::Channel(at) => (2, at),
        }
    }
}

fn hash_of(text: &[u8]) -> Result<Digest, RuleError> {
    const WRONG: RuleError =
        "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters";
    let mut digest = [0; 32];
    if text.len() != 64 {
        return Err(WRONG);
    }
    for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
        let nibble = |letter: u8| match letter {
            b'0'..=b'9' => Ok(letter - b'0'),
            b'a'..=b'f' => Ok(letter - b'a' + 10),
            _ => Err(WRONG),
        };
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::resp::commands;

    const UNKNOWN: RuleError = "Unknown command or category name in ACL";

    fn users(rules: &str) -> Users {
        let mut users = Users::with_password(None);
        users.set(b"alice", rules.as_bytes()).expect("good rules");
        users
    }

    fn may(users: &Users, words: &str) -> Result<(), Denied> {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        let command = commands::lookup(words[0]).expect("a command");
        let sub = words.get(1).and_then(|word| command.subcommand(word)).map_or("", |sub| sub.name);
        users.find(b"alice").expect("there").may(command, sub, words.len(), |at| words[at])
    }

    #[test]
    fn rules_are_shown_as_valkey_shows_them() {
        let shown = |rules: &str| String::from_utf8(users(rules).find(b"alice").unwrap().rules()).unwrap();
        assert_eq!(shown(""), "off resetchannels -@all");
        assert_eq!(
            shown("on >secret ~app:* %R~ro:* +@read +set -mget +config|get &chan*"),
            "on #2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b ~app:* %R~ro:* resetchannels \
             &chan* -@all +@read +set -mget +config|get"
        );
        assert_eq!(
            shown("on nopass allkeys allcommands -@dangerous +flushall resetchannels"),
            "on nopass ~* resetchannels +@all -@dangerous +flushall"
        );
        assert_eq!(shown("on nopass ~* +@all reset"), "off resetchannels -@all");
        assert_eq!(shown("ON NoPass ALLKEYS +@ALL"), "on nopass ~* resetchannels +@all");
        assert_eq!(shown("on nopass RESET"), "off resetchannels -@all");
        assert_eq!(shown("+SELECT|0 +get|X"), "off resetchannels -@all +select|0 +get|x");
        assert_eq!(shown("+get|x +get"), "off resetchannels -@all +get");
        assert_eq!(shown("+get -get +config|get +config"), "off resetchannels -@all -get +config");
        // What is shown makes the same user again.
        let user = users("on >a >b ~x %W~y &c +@all -config|set").find(b"alice").unwrap().clone();
        let mut again = Users::with_password(None);
        again.set(b"alice", &user.rules()).unwrap();
        assert_eq!(again.find(b"alice"), Some(&user));
    }

    #[test]
    fn rules_that_cannot_be_followed_change_nothing() {
        let mut users = users("on ~a");
        let before = users.clone();
        for (rules, rule, why) in [
            ("nopass foo", "foo", SYNTAX),
            ("+nosuch", "+nosuch", UNKNOWN),
            ("+@nosuch", "+@nosuch", UNKNOWN),
            ("+config|nosuch", "+config|nosuch", UNKNOWN),
            ("-select|0", "-select|0", UNKNOWN),
            ("+get|x|y", "+get|x|y", UNKNOWN),
            ("+get|", "+get|", SYNTAX),
            ("%X~a", "%X~a", SYNTAX),
            ("%~a", "%~a", SYNTAX),
            ("(~b on) +get", "(~b on)", SYNTAX),
            ("(~b (+get) +set)", "(~b (+get)", SYNTAX),
            ("+get (~b +get", "(~b", UNMATCHED),
            ("<x", "<x", "The password you are trying to remove from the user does not exist"),
            (
                "~* ~b",
                "~b",
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try 'resetkeys' to start with an empty list of patterns",
            ),
        ] {
            assert_eq!(users.set(b"alice", rules.as_bytes()), Err((rule.as_bytes().to_vec(), why)));
            assert_eq!(users, before);
        }
        assert!(users.set(b"alice", b"#12").unwrap_err().1.starts_with("The password hash must be"));
    }

    #[test]
    fn a_password_opens_one_user_who_is_on() {
        let mut users = users("on >secret >other");
        assert!(users.admit(b"alice", b"secret").is_some() && users.admit(b"alice", b"other").is_some());
        assert!(users.admit(b"alice", b"wrong").is_none() && users.admit(b"alice", b"").is_none());
        assert!(users.admit(b"bob", b"secret").is_none() && users.admit(b"default", b"any").is_some());
        users.set(b"alice", b"off").unwrap();
        assert!(users.admit(b"alice", b"secret").is_none());
        users.set(b"default", b">x").unwrap();
        assert!(users.welcome().is_none() && users.admit(b"default", b"any").is_none());
        users.remove(b"default");
        users.remove(b"alice");
        assert_eq!(users.count(), 1, "the default user stays");
    }

    #[test]
    fn keys_are_told_apart_by_what_is_done_with_them() {
        let users = users("on nopass %R~ro:* %W~wo:* ~rw:* +@all");
        for (words, expected) in [
            ("get ro:1", Ok(())),
            ("set ro:1 x", Err(Denied::Key(1))),
            ("mget ro:1 rw:1 wo:1", Err(Denied::Key(3))),
            ("set wo:1 x", Ok(())),
            ("set wo:1 x get", Err(Denied::Key(1))),
            ("incr wo:1", Err(Denied::Key(1))),
            ("incr rw:1", Ok(())),
            ("del wo:1 rw:1", Ok(())),
            ("copy ro:1 wo:1", Ok(())),
            ("copy wo:1 ro:1", Err(Denied::Key(1))),
            ("rename ro:1 wo:1", Err(Denied::Key(1))),
            ("mset rw:1 x none y", Err(Denied::Key(3))),
            ("exists wo:1 ro:1", Ok(())),
            ("exists none", Err(Denied::Key(1))),
            ("object encoding none", Err(Denied::Key(2))),
            ("ping", Ok(())),
        ] {
            assert_eq!(may(&users, words), expected, "{words}");
        }
    }

    #[test]
    fn a_command_may_be_allowed_with_its_first_word_only() {
        let mut users = users("on nopass ~* +select|0 +get|one +get|TWO");
        for (words, expected) in [
            ("select 0", Ok(())),
            ("select 1", Err(Denied::Command)),
            ("get one", Ok(())),
            ("get two", Ok(())),
            ("get three", Err(Denied::Command)),
            ("set one x", Err(Denied::Command)),
        ] {
            assert_eq!(may(&users, words), expected, "{words}");
        }
        users.set(b"alice", b"-get").unwrap();
        assert_eq!((may(&users, "get one"), may(&users, "select 0")), (Err(Denied::Command), Ok(())));
        users.set(b"alice", b"-@all").unwrap();
        assert_eq!(may(&users, "select 0"), Err(Denied::Command));
    }

    #[test]
    fn who_may_only_write_learns_nothing_of_when_a_key_ends() {
        let users = users("on nopass %W~wo:* +@all");
        for words in ["ttl wo:1", "pttl wo:1", "expiretime wo:1", "pexpiretime wo:1", "move wo:1 0"] {
            assert_eq!(may(&users, words), Err(Denied::Key(1)), "{words}");
        }
        for words in ["exists wo:1", "type wo:1", "strlen wo:1", "expire wo:1 5", "persist wo:1"] {
            assert_eq!(may(&users, words), Ok(()), "{words}");
        }
    }

    #[test]
    fn categories_forbid_what_they_forbid_in_redis() {
        let without = |category: &str| users(&format!("on nopass ~* &* +@all -@{category}"));
        for (category, words, expected) in [
            ("keyspace", "flushall", Err(Denied::Command)),
            ("keyspace", "flushdb", Err(Denied::Command)),
            ("keyspace", "dbsize", Err(Denied::Command)),
            ("keyspace", "wait 0 0", Ok(())),
            ("keyspace", "object encoding a", Err(Denied::Command)),
            ("admin", "role", Err(Denied::Command)),
            ("connection", "command", Err(Denied::Command)),
            ("connection", "command docs", Err(Denied::Command)),
            ("connection", "wait 0 0", Err(Denied::Command)),
            ("connection", "readonly", Err(Denied::Command)),
            ("connection", "client id", Err(Denied::Command)),
        ] {
            assert_eq!(may(&without(category), words), expected, "{words} without {category}");
        }
    }

    #[test]
    fn one_selector_alone_has_to_allow_a_command_whole() {
        let users = users("on nopass ~a:* +get (~b:* +set &news) ( %R~c:*  +@read ) (+config|get)");
        for (words, expected) in [
            ("get a:1", Ok(())),
            ("set b:1 x", Ok(())),
            ("get c:1", Ok(())),
            ("config get x", Ok(())),
            ("set a:1 x", Err(Denied::Key(1))),
            ("get b:1", Err(Denied::Key(1))),
            ("mget c:1 c:2 a:1", Err(Denied::Key(3))),
            ("del a:1", Err(Denied::Command)),
            ("config set a b", Err(Denied::Command)),
            ("subscribe news", Err(Denied::Command)),
        ] {
            assert_eq!(may(&users, words), expected, "{words}");
        }
        let alice = users.find(b"alice").unwrap();
        assert_eq!(
            String::from_utf8(alice.rules()).unwrap(),
            "on nopass ~a:* resetchannels -@all +get (~b:* resetchannels &news -@all +set) (%R~c:* resetchannels -@all \
             +@read) (resetchannels -@all +config|get)"
        );
        let mut again = Users::with_password(None);
        again.set(b"alice", &alice.rules()).unwrap();
        assert_eq!(again.find(b"alice"), Some(alice));
        assert!(!alice.is_free());
        again.set(b"alice", b"clearselectors").unwrap();
        assert_eq!(may(&again, "set b:1 x"), Err(Denied::Command));
        // One of them that allows everything is as good as the rules outside of brackets, only not so fast.
        again.set(b"alice", b"(allkeys allcommands allchannels)").unwrap();
        assert_eq!(may(&again, "set b:1 x"), Ok(()));
    }

    #[test]
    fn commands_categories_and_channels_are_told_apart() {
        let users = users("on nopass ~* +@all -@dangerous -mget +config|get &news.* ");
        for (words, expected) in [
            ("get a", Ok(())),
            ("mget a", Err(Denied::Command)),
            ("flushall", Err(Denied::Command)),
            ("config get a", Ok(())),
            ("config set a b", Err(Denied::Command)),
            ("auth x", Ok(())),
            ("subscribe news.today", Ok(())),
            ("subscribe news.today other", Err(Denied::Channel(2))),
            ("psubscribe news.*", Ok(())),
            ("psubscribe news.a*", Err(Denied::Channel(1))),
            ("ssubscribe news.today", Ok(())),
            ("ssubscribe other", Err(Denied::Channel(1))),
            ("sunsubscribe other", Ok(())),
        ] {
            assert_eq!(may(&users, words), expected, "{words}");
        }
        assert!(!users.find(b"alice").unwrap().is_free() && users.find(b"default").unwrap().is_free());
    }
}
