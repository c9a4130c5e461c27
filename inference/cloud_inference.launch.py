"""For those who start everything with ``ros2 launch``: the engine of a policy, at IB-Robot's two topics.

::

    ros2 launch inference/cloud_inference.launch.py policy_path:=/models/act device:=cuda

The domain is the environment's, ``ROS_DOMAIN_ID``.  ``chunkwise`` need not be in ROS's own Python: it is run as a
program, from whichever environment its command is of.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "policy_path": (None, "directory of a LeRobot, exported or compiled policy"),
    "device": ("auto", "auto, cpu, cuda, cuda:1, ascend_om, ascend_om_3403 or rknn"),
    "input_topic": ("/preprocessed/batch", "where requests come"),
    "output_topic": ("/inference/action", "where replies go"),
    "command": ("chunkwise", "the program, where it is not in PATH"),
}


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    declared = [
        DeclareLaunchArgument(name, description=text, **({} if default is None else {"default_value": default}))
        for name, (default, text) in ARGUMENTS.items()
    ]
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    address = ["--ros2=ros2://?input=", given["input_topic"], "&output=", given["output_topic"]]
    command = [given["command"], "engine", "--policy", given["policy_path"], "--device", given["device"], address]
    return LaunchDescription(
        [*declared, ExecuteProcess(cmd=command, name="pure_inference_cloud", output="screen")]
    )
