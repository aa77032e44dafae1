//! Profiles of the running process, in pprof's format: where its threads spend their time, and what allocated its heap.
//!
//! Nothing is recorded before somebody asks, and one profile at a time. Both unwind stacks: a thread that is interrupted
//! while it unwinds for the heap would unwind within that.

mod error;
mod heap;
mod message;
mod processor;
mod symbols;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::overload::Overload;
use crate::process::allocator::Allocator;
pub(crate) use crate::profiles::error::ProfileError;
use crate::profiles::message::Recorded;
use crate::profiles::symbols::Code;

/// A profile takes so long at most.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// Where profiles are made.
#[derive(Clone)]
pub(crate) struct Profiles(Arc<Shared>);

struct Shared {
    allocator: Allocator,
    overload: Arc<Overload>,
    /// Held while a profile is made; since when the heap is recorded, where it was said to begin.
    turn: Mutex<Option<SystemTime>>,
}

const UNDER_WAY: ProfileError = ProfileError::Busy("a profile is being made");
const RECORDED: ProfileError = ProfileError::Busy("the heap is being recorded");

impl Profiles {
    pub(crate) fn new(allocator: Allocator, overload: Arc<Overload>) -> Profiles {
        Profiles(Arc::new(Shared {
            allocator,
            overload,
            turn: Mutex::default(),
        }))
    }

    /// Where threads are while they run; it takes as long as it says.
    pub(crate) fn processor(&self, lasting: Duration) -> Result<Vec<u8>, ProfileError> {
        let turn = self.0.turn.try_lock().ok_or(UNDER_WAY)?;
        if turn.is_some() {
            return Err(RECORDED);
        }
        self.needs(processor::NEEDS)?;
        packed(|code| processor::record(lasting, code))
    }

    /// What was allocated since the heap has been recorded, or from now on for so long, and is in use at the end.
    pub(crate) fn heap(&self, lasting: Option<Duration>) -> Result<Vec<u8>, ProfileError> {
        let turn = self.0.turn.try_lock().ok_or(UNDER_WAY)?;
        self.can_record()?;
        self.needs(heap::NEEDS)?;
        match (*turn, lasting) {
            (Some(_), Some(_)) => Err(RECORDED),
            (Some(since), None) => packed(|code| heap::record(since, code)),
            (None, lasting) => {
                let since = heap::begin()?;
                thread::sleep(lasting.unwrap_or(HEAP_LASTING));
                let made = packed(|code| heap::record(since, code));
                heap::end()?;
                made
            }
        }
    }

    /// Records the heap from now on, or no more.
    pub(crate) fn record_heap(&self, on: bool) -> Result<(), ProfileError> {
        let mut turn = self.0.turn.try_lock().ok_or(UNDER_WAY)?;
        self.can_record()?;
        match (on, *turn) {
            (true, None) => *turn = Some(heap::begin()?),
            (false, Some(_)) => {
                heap::end()?;
                *turn = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
        Ok(())
    }

    /// Since when the heap is recorded.
    pub(crate) fn heap_recorded_since(&self) -> Result<Option<SystemTime>, ProfileError> {
        self.can_record()?;
        let turn = self.0.turn.try_lock().ok_or(UNDER_WAY)?;
        Ok(*turn)
    }

    fn needs(&self, bytes: u64) -> Result<(), ProfileError> {
        match self.0.overload.has_room_for(bytes) {
            true => Ok(()),
            false => Err(ProfileError::NoRoom(bytes >> 20)),
        }
    }

    fn can_record(&self) -> Result<(), ProfileError> {
        match (self.0.allocator.can_record)() {
            true => Ok(()),
            false => Err(ProfileError::NotRecording),
        }
    }
}

/// For how long the heap is recorded if nobody says.
const HEAP_LASTING: Duration = Duration::from_secs(10);

fn packed(
    record: impl FnOnce(&mut Code) -> Result<Recorded, ProfileError>,
) -> Result<Vec<u8>, ProfileError> {
    let mut code = Code::of_process()?;
    let recorded = record(&mut code)?;
    Ok(recorded.packed(&mut code)?)
}
