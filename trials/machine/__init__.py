"""What a machine has to train with. It must start where nothing is installed yet, so these modules
import nothing but the standard library at their top."""
