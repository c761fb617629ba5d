package agent_policy

default CreateContainerRequest := true
