"""Does each technique work with the architectures that people run?"""
