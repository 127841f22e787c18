//! The records of a cluster's shards, kept by its first node in a file: what the cores ask of it, and what it answers.
//!
//! ```text
//!   the first core --Ask, bounded--> thread "keeper" --Txn, List--> metadata service (a file, one sync for many)
//!        ^----- Kept, by its bell ------/
//! ```
//! What cannot be known is answered as busy: whoever asked asks again, as for a lost answer.

use super::metadata::{self, Metadata, Options, Place, Service};
use crate::clock::Mono;
use crate::ids::{CoreId, ShardId};
use crate::message::ReturnAddress;
use crate::metadata::{Entry, Name, Outcome, Range, Revision, Schema, Stands, Txn};
use crate::request::{Answer, Fault, Refusal};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Questions that wait; more are answered as busy.
const ASKS_MAX: usize = 4096;
/// Questions asked of the service at one time: what it takes together.
const TOGETHER_MAX: usize = 256;
/// The name of the cluster in keys of records.
const CLUSTER: &str = "cluster";

/// What somebody wants to know or to change.
#[derive(Debug)]
pub struct Ask {
    /// Who: a core as the first core numbers it.
    pub from: CoreId,
    /// Where the answer goes.
    pub address: ReturnAddress,
    /// What.
    pub wish: Wish,
}

/// See [`crate::request::ShardCall`].
#[derive(Debug)]
pub enum Wish {
    /// Change a record that stands at a revision (0: nobody has changed it).
    Swap {
        /// Whose.
        shard: ShardId,
        /// The revision.
        expected: u64,
        /// What it is to be.
        record: Vec<u8>,
    },
    /// A record.
    Look(ShardId),
    /// All records.
    List,
}

/// An answer.
#[derive(Debug)]
pub struct Kept {
    /// To whom.
    pub from: CoreId,
    /// Where.
    pub address: ReturnAddress,
    /// What, as of [`crate::request::ShardCall`].
    pub answer: Answer,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// How answers get to the first core.
pub type Give = Arc<dyn Fn(Kept) + Send + Sync>;

/// Who is asked.
#[derive(Clone, Debug)]
pub struct Keeper {
    asks: mpsc::Sender<Ask>,
}

impl Keeper {
    /// Asks; the answer comes by the way given at the start.
    ///
    /// # Errors
    /// The question, if too many wait.
    pub fn ask(&self, ask: Ask) -> Result<(), Ask> {
        self.asks.try_send(ask).map_err(|error| error.into_inner())
    }
}

/// Opens the file and starts the threads.
///
/// # Errors
/// See [`metadata::StartError`].
pub fn start(
    path: PathBuf,
    data_cpus: &[usize],
    clock: fn() -> Mono,
    give: Give,
) -> Result<(Keeper, Service), metadata::StartError> {
    let options = Options { place: Place::File(path), clock, data_cpus: data_cpus.to_vec() };
    let service = metadata::start(options)?;
    let (asks, mut asked) = mpsc::channel(ASKS_MAX);
    let (metadata, cpu) = (service.metadata(), super::cpu_beside(data_cpus));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
        if let Some(cpu) = cpu {
            core_affinity::set_for_current(cpu);
        }
        runtime.block_on(async {
            let mut together = Vec::with_capacity(TOGETHER_MAX);
            while asked.recv_many(&mut together, TOGETHER_MAX).await > 0 {
                let mut under_way: JoinSet<()> = JoinSet::new();
                for Ask { from, address, wish } in together.drain(..) {
                    let (metadata, give) = (metadata.clone(), give.clone());
                    under_way.spawn(async move {
                        let (answer, value) = answer(&metadata, wish).await;
                        give(Kept { from, address, answer, value });
                    });
                }
                while under_way.join_next().await.is_some() {}
            }
        });
    })?;
    Ok((Keeper { asks }, service))
}

/// Revision and record.
fn bytes_of(entry: &Entry) -> Vec<u8> {
    [&entry.modified.0.to_le_bytes()[..], &entry.value].concat()
}

async fn answer(metadata: &Metadata, wish: Wish) -> (Answer, Vec<u8>) {
    const NOBODY_KNOWS: (Answer, Vec<u8>) = (Answer::Fault(Fault::Busy), Vec::new());
    let schema = Schema::new(CLUSTER);
    match wish {
        Wish::Swap { shard, expected, record } => {
            let stands = if expected == 0 { Stands::Absent } else { Stands::At(Revision(expected)) };
            match metadata.txn(Txn::swap(&schema.key(&Name::Shard(shard)), stands, &record, None)).await {
                Outcome::Done(revision) => (Answer::Number(revision.0 as i64), Vec::new()),
                Outcome::Refused(refused) => match refused.there.into_iter().flatten().next() {
                    Some(entry) => (Answer::Refused(Refusal::Version), bytes_of(&entry)),
                    None => NOBODY_KNOWS,
                },
                Outcome::Invalid(_) | Outcome::NotSent | Outcome::Unknown => NOBODY_KNOWS,
            }
        }
        Wish::Look(shard) => match metadata.list(Range::key(&schema.key(&Name::Shard(shard)))).await {
            Ok(listing) => match listing.entries.first() {
                Some(entry) => (Answer::Page { cursor: 0 }, bytes_of(entry)),
                None => (Answer::Page { cursor: 1 }, Vec::new()),
            },
            Err(_) => NOBODY_KNOWS,
        },
        Wish::List => match metadata.list(schema.shards()).await {
            Ok(listing) => {
                let mut all = Vec::new();
                for entry in &listing.entries {
                    let Some(Name::Shard(shard)) = schema.name(&entry.key) else { continue };
                    let bytes = bytes_of(entry);
                    all.extend_from_slice(&u32::from(shard.number()).to_le_bytes());
                    all.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                    all.extend_from_slice(&bytes);
                }
                (Answer::Page { cursor: 0 }, all)
            }
            Err(_) => NOBODY_KNOWS,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnectionId;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    fn address(ticket: u32) -> ReturnAddress {
        ReturnAddress { connection: ConnectionId::NOBODY, ticket }
    }

    struct Bench {
        keeper: Keeper,
        service: Service,
        answers: Receiver<Kept>,
        count: u32,
    }

    impl Bench {
        fn of(path: &std::path::Path) -> Bench {
            let (give, answers) = channel();
            let give: Give = Arc::new(move |kept| give.send(kept).expect("the test waits"));
            let (keeper, service) = start(path.to_owned(), &[], || Mono(1), give).expect("it starts");
            Bench { keeper, service, answers, count: 0 }
        }

        fn ask(&mut self, wish: Wish) -> (Answer, Vec<u8>) {
            self.count += 1;
            let ask = Ask { from: CoreId(3), address: address(self.count), wish };
            self.keeper.ask(ask).expect("there is room");
            let kept = self.answers.recv_timeout(Duration::from_secs(20)).expect("answered");
            assert_eq!((kept.from, kept.address), (CoreId(3), address(self.count)));
            (kept.answer, kept.value)
        }
    }

    #[test]
    fn records_are_changed_from_what_they_are_and_outlive_the_process() {
        let path = std::env::temp_dir().join(format!("foreshadow-keeper-{}", std::process::id()));
        let swap = |expected, text: &str| {
            let record = text.as_bytes().to_vec();
            Wish::Swap { shard: ShardId::new(7), expected, record }
        };
        let seen = |revision: u64, text: &str| [&revision.to_le_bytes()[..], text.as_bytes()].concat();
        let mut bench = Bench::of(&path);
        assert_eq!(bench.ask(Wish::Look(ShardId::new(7))), (Answer::Page { cursor: 1 }, Vec::new()));
        assert_eq!(bench.ask(Wish::List), (Answer::Page { cursor: 0 }, Vec::new()));
        let (Answer::Number(first), _) = bench.ask(swap(0, "one")) else { panic!("nobody was before") };
        let refused = (Answer::Refused(Refusal::Version), seen(first as u64, "one"));
        assert_eq!(bench.ask(swap(0, "two")), refused);
        let (Answer::Number(second), _) = bench.ask(swap(first as u64, "two")) else {
            panic!("as it stands")
        };
        assert!(second > first);
        bench.service.stop();
        let mut bench = Bench::of(&path);
        let stands = seen(second as u64, "two");
        assert_eq!(bench.ask(Wish::Look(ShardId::new(7))), (Answer::Page { cursor: 0 }, stands.clone()));
        let listed = [&7u32.to_le_bytes()[..], &(stands.len() as u32).to_le_bytes(), &stands].concat();
        assert_eq!(bench.ask(Wish::List), (Answer::Page { cursor: 0 }, listed));
        bench.service.stop();
        for name in ["", ".lock"] {
            let mut file = path.clone().into_os_string();
            file.push(name);
            std::fs::remove_file(file).expect("it was there");
        }
    }
}
