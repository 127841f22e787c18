//! Where a core's connections live: places that are used again, each with a generation that tells the users apart.

use super::connection::Connection;
use crate::ids::ConnectionId;

/// The connections of a core.
#[derive(Default)]
pub struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    len: usize,
}

struct Place {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// Generations are told apart by this many bits, as many as a completion's tag has room for.
pub const GENERATION_BITS: u32 = 24;

impl Table {
    /// Puts a connection made by `make`, which is told its id, into a free place.
    pub fn insert(&mut self, make: impl FnOnce(ConnectionId) -> Connection) -> ConnectionId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, connection: None });
            self.places.len() as u32 - 1
        });
        let generation = self.places[place as usize].generation;
        let id = ConnectionId { place, generation };
        self.places[place as usize].connection = Some(Box::new(make(id)));
        self.len += 1;
        id
    }

    /// The connection of this id, unless it is gone.
    #[inline]
    pub fn of(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let place = self.places.get_mut(id.place as usize)?;
        if place.generation != id.generation { None } else { place.connection.as_deref_mut() }
    }

    /// Takes a connection out; its id is void from now on.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Box<Connection>> {
        let place =
            self.places.get_mut(id.place as usize).filter(|place| place.generation == id.generation)?;
        let connection = place.connection.take()?;
        place.generation = (place.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.free.push(id.place);
        self.len -= 1;
        Some(connection)
    }

    /// All connections.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.places.iter_mut().filter_map(|place| place.connection.as_deref_mut())
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.len
    }
}
