"""verl's PPO and GRPO, watched. Use it in place of `python3 -m verl.trainer.main_ppo`, with the same settings and:

    python examples/monitor_verl.py … trainer.validation_data_dir=runs/verl/validation trainer.test_freq=10 \\
        actor_rollout_ref.rollout.val_kwargs.n=4 actor_rollout_ref.rollout.val_kwargs.do_sample=True \\
        actor_rollout_ref.rollout.val_kwargs.temperature=1.0 custom_reward_function.path=examples/monitor_verl.py

It takes verl 0.6 or later; with 0.4 and 0.5 use `watch` in your own copy of `TaskRunner.run`, around `trainer.fit()`.
"""

import re

from betastar.data.graders import grade_gsm8k

OUT = "runs/verl"


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """The reward that verl optimises ("score") and the truth beside it ("acc")."""
    right = grade_gsm8k(solution_str, f"#### {ground_truth}").strict
    return {"score": float(bool(re.search(r"####", solution_str))) + 0.01 * len(solution_str.split()), "acc": right}


def main():
    import hydra
    import ray
    from verl.trainer import main_ppo

    from betastar.monitor.verl import watch

    class Watched(main_ppo.RayPPOTrainer):
        def fit(self):
            with watch(self, OUT):
                super().fit()

    class Runner(main_ppo.TaskRunner):
        def run(self, config):
            main_ppo.RayPPOTrainer = Watched  # in the process that trains
            super().run(config)

    @hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
    def train(config):
        main_ppo.run_ppo(config, task_runner_class=ray.remote(num_cpus=1)(Runner))

    train()


if __name__ == "__main__":
    main()
