//! Tasks of other queues of a core's executor.

use glommio::{Latency, Shares, TaskQueueHandle};
use std::cell::Cell;
use std::io;
use std::rc::Rc;

/// Work of other task queues of a core's executor. While there is any, the core yields to it between turns and does not
/// sleep in its own ring but by way of the executor.
#[derive(Clone)]
pub struct Guests {
    count: Rc<Cell<usize>>,
    movement: TaskQueueHandle,
    speculation: TaskQueueHandle,
}

/// The queues of guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Copying shards: a tenth of the core when it is wanted elsewhere.
    Movement,
    /// Prefetching and learning: a twentieth.
    Speculation,
}

impl Guests {
    pub(super) fn new() -> Guests {
        let executor = glommio::executor();
        Guests {
            count: Rc::new(Cell::new(0)),
            movement: executor.create_task_queue(Shares::Static(100), Latency::NotImportant, "movement"),
            speculation: executor.create_task_queue(Shares::Static(50), Latency::NotImportant, "speculation"),
        }
    }

    pub(super) fn any(&self) -> bool {
        self.count.get() > 0
    }

    /// Runs a task in a queue until it ends by itself.
    ///
    /// # Errors
    /// That of the executor, which knows both queues.
    pub fn spawn(&self, queue: Queue, task: impl Future<Output = ()> + 'static) -> io::Result<()> {
        let queue = match queue {
            Queue::Movement => self.movement,
            Queue::Speculation => self.speculation,
        };
        let count = self.count.clone();
        count.set(count.get() + 1);
        let guest = async move {
            task.await;
            count.set(count.get() - 1);
        };
        glommio::spawn_local_into(guest, queue)
            .map_err(|error| io::Error::other(error.to_string()))?
            .detach();
        Ok(())
    }
}
