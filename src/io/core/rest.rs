//! Waiting until there is something to do.

use super::Core;
use crate::clock::Mono;
use crate::io::time;
use std::io;

impl Core {
    /// Waits until there is something to do: looks for a while, then sleeps.
    pub(super) async fn rest(&mut self) -> io::Result<()> {
        let look = self.idle.look_nanos();
        let queued = self.ring.has_queued();
        if look > 0 && queued {
            self.ring.enter(false)?;
            if self.ring.has_news() {
                return Ok(());
            }
        }
        let begin = time::mono();
        if look > 0 {
            loop {
                // The clock is looked at once in a while only: it costs as much as a dozen looks at the ring.
                for _ in 0..16 {
                    if self.ring.has_news() || self.works.mesh.has_mail() {
                        self.idle.found(time::mono().0 - begin.0);
                        return self.ring.enter(false);
                    }
                    std::hint::spin_loop();
                }
                if time::mono().0 - begin.0 >= look {
                    break;
                }
            }
        }
        // Who sleeps does not know for how long.
        self.send_held();
        self.arm_timer(begin);
        if !self.works.mesh.fall_asleep() {
            return self.ring.enter(false);
        }
        self.works.engine.counters.parks_total += 1;
        if self.guests.any() {
            self.ring.notify(true);
            self.ring.enter(false)?;
            if !self.ring.has_news() {
                // What is read is only the number of completions; an error would repeat at the next sleep.
                let _ = self.event.file.read_at(0, 8).await;
            }
            self.ring.notify(false);
            self.ring.enter(false)?;
        } else {
            self.ring.enter(true)?;
        }
        self.works.mesh.wake_up();
        // With sends queued what ended the sleep may be no more than their completion, which teaches nothing.
        if self.idle.adapts() && (look > 0 || !queued) {
            self.idle.slept(time::mono().0 - begin.0);
        }
        Ok(())
    }

    pub(super) fn arm_timer(&mut self, now: Mono) {
        let next = self.due.next();
        if self.due.armed.is_none_or(|armed| armed > next) {
            self.ring.timer(next.0.saturating_sub(now.0).max(1));
            self.due.armed = Some(next);
        }
    }
}
