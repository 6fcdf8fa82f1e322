"""The size of small runs, for every test."""

SMALL = (
    "profile=smoke",
    "profile.epoch_steps=200",
    "method.num_envs=4",
    "method.rollout_steps=50",
    "method.minibatch_size=50",
    "method.update_epochs=2",
    "tracking=false",
)
