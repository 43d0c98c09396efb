//! Plays a program: runs each step on the stage, and returns at the end what the record must contain.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{
    datagrams::Datagrams,
    program::{Op, Program, Setup, Step},
    stage::{STRANGER, Stage},
    stream::Stream,
    truth::Played,
};
use crate::environment::Combination;

/// State of a scene.
enum Scene {
    Closed,
    Stream(Box<Stream>),
    Datagrams(Box<Datagrams>),
}

/// A running program.
pub(super) struct Play<'a> {
    stage: Stage<'a>,
    scenes: Vec<Scene>,
}

impl<'a> Play<'a> {
    /// Plays a program.
    pub(super) fn run(program: &Program, folder: &'a Path, how: &'a Combination) -> Result<Played> {
        let mut play = Self {
            stage: Stage::new(program.scenes.len(), folder, how)?,
            scenes: program.scenes.iter().map(|_| Scene::Closed).collect(),
        };
        for (number, step) in program.steps.iter().enumerate() {
            play.step(program, step)
                .with_context(|| format!("step {number}: {step:?}"))?;
        }
        play.end()
    }

    fn step(&mut self, program: &Program, step: &Step) -> Result<()> {
        match step {
            Step::Attach => self.attach(program.small_ring)?,
            Step::Pause | Step::Resume => {
                self.stage.pause(matches!(step, Step::Pause))?;
            }
            Step::Fork(actor) => {
                let child = self.stage.fork(*actor)?;
                for scene in &mut self.scenes {
                    match scene {
                        Scene::Closed => {}
                        Scene::Stream(stream) => stream.ways.inherit(*actor, child),
                        Scene::Datagrams(datagrams) => datagrams.ways.inherit(*actor, child),
                    }
                }
            }
            Step::In(scene, op) => {
                let mut taken = std::mem::replace(&mut self.scenes[*scene], Scene::Closed);
                let done = match (&mut taken, op) {
                    (Scene::Closed, Op::Open) => {
                        taken = self.open(*scene, &program.scenes[*scene])?;
                        Ok(())
                    }
                    (Scene::Closed, _) => Ok(()),
                    (Scene::Stream(stream), op) => stream.play(&mut self.stage, op),
                    (Scene::Datagrams(datagrams), op) => datagrams.play(&mut self.stage, op),
                };
                self.scenes[*scene] = taken;
                done?;
            }
        }
        Ok(())
    }

    fn open(&mut self, scene: usize, setup: &Setup) -> Result<Scene> {
        Ok(if setup.tcp {
            Scene::Stream(Box::new(Stream::open(&mut self.stage, scene, setup)?))
        } else {
            Scene::Datagrams(Box::new(Datagrams::open(&mut self.stage, scene, setup)?))
        })
    }

    fn attach(&mut self, small_ring: bool) -> Result<()> {
        for scene in &mut self.scenes {
            if let Scene::Stream(stream) = scene {
                stream.was_before();
                self.stage.provoked.broken = true;
            }
        }
        self.stage.stranger_is_kin = self.scenes.iter().any(|scene| match scene {
            Scene::Closed => false,
            Scene::Stream(stream) => !stream.closed && stream.ways.reach(STRANGER),
            Scene::Datagrams(datagrams) => !datagrams.closed && datagrams.ways.reach(STRANGER),
        });
        self.stage.attach(small_ring)
    }

    fn end(mut self) -> Result<Played> {
        self.stage.pause(false)?;
        let mut expected = Vec::new();
        let mut torn = Vec::new();
        for scene in std::mem::take(&mut self.scenes) {
            match scene {
                Scene::Closed => {}
                Scene::Stream(stream) => {
                    self.stage.provoked.broken |= stream.is_broken();
                    torn.extend(stream.torn(self.stage.provoked.ring));
                    stream.expect(&mut expected);
                }
                Scene::Datagrams(datagrams) => expected.extend(datagrams.expected()),
            }
        }
        let tapped = self.stage.detach()?;
        Ok(Played {
            expected,
            tapped,
            provoked: self.stage.provoked,
            torn,
        })
    }
}
