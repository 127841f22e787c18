//! Placeholder.
use super::*;
pub(crate) struct Resp;
impl Resp {
    pub fn serve<B: Backend>(
        &mut self,
        _now: Now,
        _node: &Node,
        input: &[u8],
        _backend: &mut B,
        _out: &mut Vec<u8>,
    ) -> Progress {
        Progress { consumed: input.len(), next: Next::Close(Reason::Unknown) }
    }
    pub fn complete(
        &mut self,
        _now: Now,
        _node: &Node,
        _ticket: u32,
        _outcome: &Outcome<'_>,
        _out: &mut Vec<u8>,
    ) {
    }
    pub fn held_bytes(&self) -> usize {
        0
    }
    pub fn awaited(&self) -> usize {
        0
    }
    pub fn authenticated(&self) -> bool {
        true
    }
}
impl Resp {
    pub fn new(_o: Arc<Options>, _c: Client) -> Self {
        Resp
    }
    pub fn describe(&self, _n: Now, _o: &mut Vec<u8>) {}
}
