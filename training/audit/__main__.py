from training.audit.command import main

main(prog_name="python -m training.audit")
